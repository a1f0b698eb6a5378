import type { Redis } from 'ioredis'
import type { Token } from 'lease-core'
import { redisClient, RedisGuard } from 'lease-redis'
import { ownSeat, type Adapter, type Contestant, type Ground, type GuardedWrites } from '../../bench.ts'
import { libraryCan, libraryContestant } from '../library.ts'
import { openCluster, openRedis } from './connection.ts'

/** As an application would set it up. */
export const redisLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager, default options',
  can: [...libraryCan, 'guard'],
  guards: ['script', 'MULTI, EXEC'],
  open: (ground, { space } = ownSeat()) => open(ground, space),
}

/** The same over a Cluster: all leases of a namespace are in one slot. */
export const redisClusterLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager over a Cluster, default options; all its leases are on one master',
  can: libraryCan,
  async open({ url }, { space } = ownSeat()) {
    const cluster = await openCluster(url)
    return libraryContestant({
      connect: (clock) => redisClient({ redis: cluster, namespace: space, clock }),
      atEnd: async () => cluster.disconnect(),
    })
  },
}

async function open(ground: Ground, namespace: string): Promise<Contestant> {
  const redis = await openRedis(ground.url)
  const besides: Redis[] = []
  return libraryContestant({
    connect: (clock) => redisClient({ redis, namespace, clock }),
    async atEnd() {
      for (const connection of [redis, ...besides]) connection.disconnect()
    },
    async guard(kind, token, lane) {
      const key = `${namespace}:ledger-${lane}`
      if (kind === 'script') return script(redis, token, key)
      const connection = redis.duplicate({ retryStrategy: null })
      besides.push(connection)
      return multi(connection, token, key)
    },
  })
}

const add = `return redis.call('INCRBY', KEYS[1], ARGV[1])`

function script(redis: Redis, token: Token, key: string): GuardedWrites {
  redis.defineCommand('benchAdd', { lua: add, numberOfKeys: 1 })
  const plain = redis as Redis & { benchAdd(key: string, amount: number): Promise<unknown> }
  return {
    async guarded() {
      const guard = new RedisGuard()
      await token.check(guard)
      await guard.run(redis, add, [key], [1])
    },
    async plain() {
      await plain.benchAdd(key, 1)
    },
  }
}

function multi(connection: Redis, token: Token, key: string): GuardedWrites {
  return {
    async guarded() {
      const guard = new RedisGuard()
      await token.check(guard)
      await guard.transaction(connection, (multi) => void multi.incrby(key, 1))
    },
    async plain() {
      await connection.multi().incrby(key, 1).exec()
    },
  }
}
