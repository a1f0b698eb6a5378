import { SubstrateClient, type Client } from 'lease-core'
import { checkOptions, type RedisClientOptions } from './options.ts'
import { RedisSubstrate } from './redis-substrate.ts'

/**
 * A client for the leases of one namespace in Redis. Nothing is sent before the first call.
 *
 * @throws ErrNotValid with every problem of the options
 */
export function redisClient(options: RedisClientOptions): Client {
  checkOptions(options, { client: true })
  const { events, requestTimeout, ...ofSubstrate } = options
  const { clock } = ofSubstrate
  const substrate = new RedisSubstrate(ofSubstrate, (warning) => client.warn(warning))
  const client = new SubstrateClient({ clock, events, requestTimeout, substrate })
  return client
}
