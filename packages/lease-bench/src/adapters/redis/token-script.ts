/**
 * The smallest pair of scripts that keeps a fencing token: a counter beside the key. No lost reply that resolves to "it was mine",
 * no refusal that says who has it, no announcement, no index, and the counter is lost with a flush.
 */
import { randomUUID } from 'node:crypto'
import type { Redis } from 'ioredis'
import type { Adapter } from '../../bench.ts'
import { LONG_MS } from '../by-hand.ts'
import { openRedis } from './connection.ts'

const scripts = {
  benchClaimToken: {
    numberOfKeys: 2,
    lua: `local token = redis.call('INCR', KEYS[2])
if redis.call('SET', KEYS[1], token, 'PX', ARGV[1], 'NX') then return token end
return 0`,
  },
  benchReleaseToken: {
    numberOfKeys: 1,
    lua: `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`,
  },
}

interface WithScripts {
  benchClaimToken(key: string, counter: string, ms: number): Promise<number>
  benchReleaseToken(key: string, token: number): Promise<number>
}

export const redisTokenScript: Adapter = {
  name: 'token-script',
  role: 'raw',
  about: 'by hand, a script each: INCR and SET NX PX with that token; compare with the token and delete',
  can: ['one'],
  async open({ url }) {
    const redis = (await openRedis(url)) as Redis & WithScripts
    for (const [name, script] of Object.entries(scripts)) redis.defineCommand(name, script)
    const prefix = randomUUID()
    const [counter, keyOf] = [`${prefix}:token`, (lease: string) => `${prefix}:lease:${lease}`]
    const tokens = new Map<string, number>()
    return {
      one: {
        async claim(lease) {
          const token = await redis.benchClaimToken(keyOf(lease), counter, LONG_MS)
          if (token === 0) throw new Error(`${lease} is taken`)
          tokens.set(lease, token)
        },
        async release(lease) {
          const deleted = await redis.benchReleaseToken(keyOf(lease), tokens.get(lease) ?? 0)
          if (deleted !== 1) throw new Error(`${lease} was not held`)
        },
      },
      close: async () => redis.disconnect(),
    }
  },
}
