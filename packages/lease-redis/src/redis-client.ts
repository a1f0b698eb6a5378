import type { Client } from 'lease-core'
import { clientOver } from 'lease-core/adapter'
import { parseOptions, type RedisClientOptions } from './options.ts'
import { RedisSubstrate } from './redis-substrate.ts'

/**
 * A client for the leases of one namespace in Redis. Nothing is sent before the first call.
 *
 * @throws ErrNotValid with every problem of the options
 */
export function redisClient(options: RedisClientOptions): Client {
  return clientOver(parseOptions(options, { client: true }), (own, warn) => new RedisSubstrate(own, warn))
}
