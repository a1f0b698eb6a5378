import { SubstrateClient, type Client } from 'lease-core'
import { checkClientOptions, type PostgresOptions } from './options.ts'
import { PostgresSubstrate } from './postgres-substrate.ts'

/**
 * A client for the leases of one namespace in PostgreSQL. Nothing is sent before the first call.
 *
 * @throws ErrNotValid with every problem of the options
 */
export function postgresClient(options: PostgresOptions): Client {
  checkClientOptions(
    options,
    (given) => new SubstrateClient({ ...ofClient(given), substrate: PostgresSubstrate.prototype }),
  )
  const { events: _events, requestTimeout: _requestTimeout, ...ofSubstrate } = options
  return new SubstrateClient({ ...ofClient(options), substrate: new PostgresSubstrate(ofSubstrate) })
}

function ofClient({
  clock,
  events,
  requestTimeout,
}: PostgresOptions): Pick<PostgresOptions, 'clock' | 'events' | 'requestTimeout'> {
  return { clock, events, requestTimeout }
}
