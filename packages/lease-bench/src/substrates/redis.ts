import { Redis } from 'ioredis'
import { startRedis } from 'lease-servers'
import { heard } from '../adapters/library.ts'
import { openRedis } from '../adapters/redis/connection.ts'
import { redisLibrary } from '../adapters/redis/library.ts'
import { redisPeers } from '../adapters/redis/peers.ts'
import { redisQueueRing, redisRing } from '../adapters/redis/ring.ts'
import { redisScript, redisScriptBatch } from '../adapters/redis/script.ts'
import { redisSet, redisSetBatch } from '../adapters/redis/set.ts'
import { redisTokenScript } from '../adapters/redis/token-script.ts'
import { roundTrip } from '../adapters/round-trip.ts'
import type { Ground, Place, Substrate, SubstrateName } from '../bench.ts'
import { countedBytes } from '../counted-bytes.ts'
import { countedCalls, countedEvents } from '../counted-calls.ts'

/** That the driver emits for each message: those with text; the same come as bytes as well. */
const messageEvents: readonly string[] = ['message', 'pmessage', 'smessage']

/** A server with an append-only file, flushed every second, or the one that REDIS_URL names. */
export const redis: Substrate = {
  name: 'redis',
  adapters: [
    redisLibrary,
    heard(redisLibrary),
    redisScript,
    redisSet,
    redisTokenScript,
    redisRing,
    redisQueueRing,
    redisScriptBatch({ inFlight: 1 }),
    redisScriptBatch({ inFlight: 2 }),
    redisScriptBatch({ inFlight: 4 }),
    redisSetBatch,
    ...redisPeers,
    roundTrip,
  ],
  open,
  reach: (url) => groundOf('redis', url, { connect: openRedis, ask: (beside) => beside.ping() }),
}

/** Counts from before the connection is made that asks. */
export async function groundOf<Connection extends { disconnect(): void }>(
  substrate: SubstrateName,
  url: string,
  {
    connect,
    ask,
  }: {
    readonly connect: (url: string) => Promise<Connection>
    readonly ask: (beside: Connection) => Promise<unknown>
  },
): Promise<Ground> {
  // The server counts what a script does among the commands, and does not tell them apart; the driver does.
  const commands = countedCalls(Redis.prototype, 'sendCommand')
  const messages = countedEvents(Redis.prototype, messageEvents)
  const bytes = countedBytes()
  const beside = await connect(url)
  return {
    substrate,
    url,
    counts: 'process',
    commands: async () => commands(),
    messages: async () => messages(),
    bytes,
    async roundTrip() {
      await ask(beside)
    },
    close: async () => beside.disconnect(),
  }
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
