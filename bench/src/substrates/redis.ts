import { Redis } from 'ioredis'
import { startRedis } from 'lease-servers'
import { openRedis } from '../adapters/redis/connection.ts'
import { redisLibrary } from '../adapters/redis/library.ts'
import { redisPeers } from '../adapters/redis/peers.ts'
import { redisRing } from '../adapters/redis/ring.ts'
import { redisScript, redisScriptBatch } from '../adapters/redis/script.ts'
import { redisSet, redisSetBatch } from '../adapters/redis/set.ts'
import { redisTokenScript } from '../adapters/redis/token-script.ts'
import { roundTrip } from '../adapters/round-trip.ts'
import type { Place, Substrate } from '../bench.ts'
import { countedBytes } from '../counted-bytes.ts'
import { countedCalls, countedEvents } from '../counted-calls.ts'

/** That the driver emits for each message: those with text; the same come as bytes as well. */
export const messageEvents: readonly string[] = ['message', 'pmessage', 'smessage']

/** A server with an append-only file, flushed every second, or the one that REDIS_URL names. */
export const redis: Substrate = {
  name: 'redis',
  adapters: [
    redisLibrary,
    redisScript,
    redisSet,
    redisTokenScript,
    redisRing,
    redisScriptBatch({ inFlight: 1 }),
    redisScriptBatch({ inFlight: 2 }),
    redisScriptBatch({ inFlight: 4 }),
    redisSetBatch,
    ...redisPeers,
    roundTrip,
  ],
  open,
  async reach(url) {
    // The server counts what a script does among the commands, and does not tell them apart; the driver does.
    const commands = countedCalls(Redis.prototype, 'sendCommand')
    const messages = countedEvents(Redis.prototype, messageEvents)
    const bytes = countedBytes()
    const beside = await openRedis(url)
    return {
      substrate: 'redis',
      url,
      counts: 'process',
      commands: async () => commands(),
      messages: async () => messages(),
      bytes,
      async roundTrip() {
        await beside.ping()
      },
      close: async () => beside.disconnect(),
    }
  },
}

async function open(given: string | undefined = process.env['REDIS_URL']): Promise<Place> {
  const server = given ? undefined : await startRedis({ appendonly: true })
  const url = server?.url ?? given ?? ''
  try {
    const beside = await openRedis(url)
    const info = await beside.info()
    beside.disconnect()
    const version = /redis_version:(\S+)/.exec(info)?.[1] ?? ''
    const appends = info.includes('aof_enabled:1')
    return {
      about: `Redis ${version} (${appends ? 'append-only file' : 'no append-only file'})`,
      url,
      close: async () => server?.stop(),
    }
  } catch (error) {
    await server?.stop()
    throw error
  }
}
