import type { Client } from 'lease-core'
import { clientOver } from 'lease-core/adapter'
import { parseOptions, type PostgresOptions } from './options.ts'
import { PostgresSubstrate } from './postgres-substrate.ts'

/**
 * A client for the leases of one namespace in PostgreSQL. Nothing is sent before the first call.
 *
 * @throws ErrNotValid with every problem of the options
 */
export function postgresClient(options: PostgresOptions): Client {
  return clientOver(parseOptions(options, { client: true }), (own, warn) => new PostgresSubstrate(own, warn))
}
