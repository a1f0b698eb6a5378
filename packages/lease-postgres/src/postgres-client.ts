import { SubstrateClient, type Client } from 'lease-core'
import { checkOptions, type PostgresOptions } from './options.ts'
import { PostgresSubstrate } from './postgres-substrate.ts'

/**
 * A client for the leases of one namespace in PostgreSQL. Nothing is sent before the first call.
 *
 * @throws ErrNotValid with every problem of the options
 */
export function postgresClient(options: PostgresOptions): Client {
  checkOptions(options, { client: true })
  const { events, requestTimeout, ...ofSubstrate } = options
  const { clock } = ofSubstrate
  const substrate = new PostgresSubstrate(ofSubstrate, (warning) => client.warn(warning))
  const client = new SubstrateClient({ clock, events, requestTimeout, substrate })
  return client
}
