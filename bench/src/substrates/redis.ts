import { startRedis } from 'lease-servers'
import type { Redis } from 'ioredis'
import { openRedis } from '../adapters/redis-connection.ts'
import { redisLibrary } from '../adapters/redis-library.ts'
import { redisScript, redisScriptBatch } from '../adapters/redis-script.ts'
import { redisSet, redisSetBatch } from '../adapters/redis-set.ts'
import type { Place, Substrate } from '../bench.ts'

/** A server with an append-only file, flushed every second, or the one that REDIS_URL names. */
export const redis: Substrate = {
  name: 'redis',
  adapters: [
    redisLibrary,
    redisScript,
    redisSet,
    redisScriptBatch({ inFlight: 1 }),
    redisScriptBatch({ inFlight: 2 }),
    redisScriptBatch({ inFlight: 4 }),
    redisSetBatch,
  ],
  open,
}

async function open(): Promise<Place> {
  const given = process.env['REDIS_URL']
  const server = given ? undefined : await startRedis({ appendonly: true })
  const url = server?.url ?? given ?? ''
  try {
    const beside = await openRedis(url)
    const info = await beside.info()
    const version = /redis_version:(\S+)/.exec(info)?.[1] ?? ''
    const appends = info.includes('aof_enabled:1')
    return {
      about: `Redis ${version} (${appends ? 'append-only file' : 'no append-only file'})`,
      url,
      commands: countedBy(beside),
      async roundTrip() {
        await beside.ping()
      },
      async close() {
        beside.disconnect()
        await server?.stop()
      },
    }
  } catch (error) {
    await server?.stop()
    throw error
  }
}

/** What no script can do is certainly sent by a client, and running a script is one command. */
const sentByClients = ['eval', 'evalsha', 'subscribe', 'unsubscribe', 'ping', 'multi', 'exec', 'watch', 'hello']

/**
 * The server counts what a script does among the commands, and does not tell them apart. So as long as scripts run, only
 * those count that scripts do not contain; everything counts while none runs.
 */
function countedBy(beside: Redis): () => Promise<number> {
  let sent = 0
  let before: ReadonlyMap<string, number> | undefined
  return async () => {
    const now = new Map<string, number>()
    for (const [, name = '', calls] of (await beside.info('commandstats')).matchAll(/^cmdstat_(.+?):calls=(\d+)/gm)) {
      now.set(name, Number(calls))
    }
    const since = (names: Iterable<string>): number => {
      let sum = 0
      for (const name of names) sum += (now.get(name) ?? 0) - (before?.get(name) ?? 0)
      return sum
    }
    const scripts = since(['eval', 'evalsha']) > 0
    // The INFO of the last time counts among those of this one.
    if (before !== undefined) sent += scripts ? since(sentByClients) : since(now.keys()) - 1
    before = now
    return sent
  }
}
