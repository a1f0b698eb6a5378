import type { Cluster, Redis } from 'ioredis'
import type { Adapter, Seat } from '../../bench.ts'
import { LONG_MS } from '../by-hand.ts'
import { neighboursOf, ring, type RingClient } from '../ring.ts'
import { openCluster, openRedis } from './connection.ts'

const about = 'by hand, to the next of a ring: a script with DEL and PUBLISH, the message, SET NX PX'

export const redisRing: Adapter = ring({
  about,
  connect: async ({ url }, seat) => bareRing(await openRedis(url), await openRedis(url), seat),
})

export const redisClusterRing: Adapter = ring({
  about,
  connect: async ({ url }, seat) => bareRing(await openCluster(url), await openCluster(url), seat),
})

/** Shows how much of a hand-off is the price of a queue: as many commands and messages as the library's, and as little else as the ring. */
export const redisQueueRing: Adapter = ring({
  name: 'ring-queue',
  about:
    'the same with what a queue adds: ZADD to get in, messages to the next and to one that stands in, and one from the grant to the next in the queue',
  isDetail: true,
  connect: async ({ url }, seat) => queueRing(await openRedis(url), await openRedis(url), seat),
})

const scripts = {
  benchHandOn: `if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], 'next')
if ARGV[3] then redis.call('PUBLISH', ARGV[3], 'stand in') end
return 1`,
  benchTake: `if not redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') then return 0 end
redis.call('ZREM', KEYS[1] .. ':queue', ARGV[1])
redis.call('PUBLISH', ARGV[3], 'taken')
return 1`,
}

interface WithScripts {
  benchHandOn(key: string, holder: number, ...channels: readonly string[]): Promise<unknown>
  benchTake(key: string, holder: number, ms: number, channel: string): Promise<unknown>
}

type Connection = (Redis | Cluster) & WithScripts

function bareRing(redis: Redis | Cluster, subscriber: Redis | Cluster, seat: Seat): RingClient {
  const { connection, keyOf, channelOf, ...rest } = ringOn(redis, subscriber, seat)
  const { next } = neighboursOf(seat)
  return {
    ...rest,
    async claim(lease) {
      assertDone(await connection.set(keyOf(lease), seat.index, 'PX', LONG_MS, 'NX'), 'OK', lease)
    },
    async release(lease) {
      assertDone(await connection.benchHandOn(keyOf(lease), seat.index, channelOf(lease, next)), 1, lease)
    },
  }
}

function queueRing(redis: Redis, subscriber: Redis, seat: Seat): RingClient {
  const { connection, keyOf, channelOf, ...rest } = ringOn(redis, subscriber, seat)
  const { index } = seat
  const { next } = neighboursOf(seat)
  const { next: standIn } = neighboursOf({ ...seat, index: next })
  return {
    ...rest,
    async enter(lease) {
      await connection.zadd(`${keyOf(lease)}:queue`, performance.now(), index)
    },
    async claim(lease) {
      assertDone(await connection.benchTake(keyOf(lease), index, LONG_MS, channelOf(lease, next)), 1, lease)
    },
    async release(lease) {
      const channels = [channelOf(lease, next), channelOf(lease, standIn)]
      assertDone(await connection.benchHandOn(keyOf(lease), index, ...channels), 1, lease)
    },
  }
}

/** What both have. */
function ringOn(redis: Redis | Cluster, subscriber: Redis | Cluster, { space, index }: Seat) {
  for (const [name, lua] of Object.entries(scripts)) redis.defineCommand(name, { numberOfKeys: 1, lua })
  const keyOf = (lease: string): string => `{${space}}:${lease}`
  const channelOf = (lease: string, of: number): string => `${keyOf(lease)}:${of}`
  return {
    connection: redis as Connection,
    keyOf,
    channelOf,
    async listen(lease: string, woken: () => void): Promise<void> {
      const own = channelOf(lease, index)
      subscriber.on('message', (channel: string, message: string) => {
        if (channel === own && message === 'next') woken()
      })
      await subscriber.subscribe(own)
    },
    async close(): Promise<void> {
      subscriber.disconnect()
      redis.disconnect()
    },
  }
}

function assertDone(answer: unknown, expected: unknown, lease: string): void {
  if (answer !== expected) throw new Error(`${lease} is not in the hands that it should be in`)
}
