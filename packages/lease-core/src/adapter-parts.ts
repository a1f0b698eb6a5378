/** What adapters would repeat. */
import type { Client } from './client.ts'
import { ErrNotHeld } from './errors.ts'
import { SubstrateClient, type SubstrateClientOptions } from './substrate-client.ts'
import type { Substrate, SubstrateWarning } from './substrate.ts'

/**
 * A Client over a substrate that is made of the same options. What the substrate warns of is an event of the Client.
 *
 * @param open is called once; it must not warn before it returns
 */
export function clientOver<Options extends Omit<SubstrateClientOptions, 'substrate'>>(
  { events, requestTimeout, ...own }: Options,
  open: (own: Omit<Options, 'events' | 'requestTimeout'>, warn: (warning: SubstrateWarning) => void) => Substrate,
): Client {
  const substrate = open(own, (warning) => client.warn(warning))
  const client = new SubstrateClient({ clock: own.clock, events, requestTimeout, substrate })
  return client
}

/** The error of a guard whose term does not stand; `more` is said after it. */
export function notHeld(
  { lease, holder, fencingToken }: Readonly<{ lease: string; holder: string; fencingToken: bigint }>,
  more: string = '',
): ErrNotHeld {
  const message = `"${holder}" does not hold lease "${lease}" with fencing token ${fencingToken}${more}`
  return new ErrNotHeld(message, { lease, holder })
}
