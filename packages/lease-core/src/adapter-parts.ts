/** What adapters would repeat. */
import type { Client } from './client.ts'
import { ErrNotHeld } from './errors.ts'
import { OptionReader } from './option-reader.ts'
import { REQUEST_TIMEOUT_MS } from './options.ts'
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

/** The options of `SubstrateClient` that an adapter's client passes on, beside `clock`. */
const CLIENT_OPTIONS = ['events', 'requestTimeout'] as const

/**
 * Reads the options of one adapter:
 *
 *     const options = readAdapterOptions(given, ['pool', 'notify', 'clock'], { client: true })
 *     options.object('pool', 'a pool', ['connect'])
 *     options.finish()
 *
 * It checks by itself: unknown options, `namespace`, `clock` if it is among the adapter's own options, and with `client: true` the other
 * options of a client (`events`, `requestTimeout`).
 *
 * @param secret the options in whose place somebody may pass a password
 */
export function readAdapterOptions<O extends object>(
  given: O,
  own: readonly string[],
  { client, secret }: { readonly client: boolean; readonly secret?: readonly string[] },
): OptionReader<O> {
  const options = new OptionReader(given, [...own, 'namespace', ...(client ? CLIENT_OPTIONS : [])], { secret })
  options.fault('namespace', brokenNamespaceRule(options.given('namespace')))
  options.clock()
  options.events()
  options.duration('requestTimeout', REQUEST_TIMEOUT_MS)
  return options
}

/** Returns the rule that this namespace breaks; undefined when it is valid for every adapter. */
export function brokenNamespaceRule(namespace: unknown): string | undefined {
  if (typeof namespace !== 'string') return 'must be a string'
  if (namespace === '') return 'must not be empty'
  if (namespace.includes('\0') || /\p{Cs}/u.test(namespace)) return 'must be well-formed Unicode without NUL'
  return Buffer.byteLength(namespace) > 255 ? 'must be at most 255 bytes' : undefined
}
