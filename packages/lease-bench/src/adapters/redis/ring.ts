import type { Cluster, Redis } from 'ioredis'
import type { Adapter, Seat } from '../../bench.ts'
import { LONG_MS } from '../by-hand.ts'
import { neighboursOf, ring, type RingClient } from '../ring.ts'
import { openCluster, openRedis } from './connection.ts'

const about = 'by hand, to the next of a ring: a script with DEL and PUBLISH, the message, SET NX PX'

export const redisRing: Adapter = ring({
  about,
  connect: async ({ url }, seat) => clientOf(await openRedis(url), await openRedis(url), seat),
})

export const redisClusterRing: Adapter = ring({
  about,
  connect: async ({ url }, seat) => clientOf(await openCluster(url), await openCluster(url), seat),
})

const release = `if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], '')
return 1`

interface WithScript {
  benchHandOn(key: string, holder: number, channel: string): Promise<unknown>
}

function clientOf(redis: Redis | Cluster, subscriber: Redis | Cluster, seat: Seat): RingClient {
  redis.defineCommand('benchHandOn', { numberOfKeys: 1, lua: release })
  const { index } = seat
  const keyOf = (lease: string): string => `{${seat.space}}:${lease}`
  const channelOf = (lease: string, of: number): string => `${keyOf(lease)}:${of}`
  return {
    async listen(lease, woken) {
      const own = channelOf(lease, index)
      subscriber.on('message', (channel: string) => {
        if (channel === own) woken()
      })
      await subscriber.subscribe(own)
    },
    async claim(lease) {
      const answer = await redis.set(keyOf(lease), index, 'PX', LONG_MS, 'NX')
      if (answer !== 'OK') throw new Error(`${lease} is taken`)
    },
    async release(lease) {
      const { next } = neighboursOf(seat)
      const released = await (redis as unknown as WithScript).benchHandOn(keyOf(lease), index, channelOf(lease, next))
      if (released !== 1) throw new Error(`${lease} was not held`)
    },
    async close() {
      subscriber.disconnect()
      redis.disconnect()
    },
  }
}
