/** Guarded writes in Redis: by a script, by MULTI … EXEC, and with a fence that outlives a failover. */
import type { Cluster, Redis } from 'ioredis'
import type { Token } from 'lease-core'
import { RedisGuard } from 'lease-redis'

/** Has the hash tag of the namespace `bank`: in a Cluster the key is on the same node as the leases. */
export const accounts = '{bank}:accounts'

/** The key is a guard that runs your script only while the lease is held: the server checks and writes in one step. */
export async function transfer(redis: Redis | Cluster, token: Token, from: string, to: string, amount: number) {
  const guard = new RedisGuard()
  await token.check(guard)
  const lua = `
    redis.call('HINCRBY', KEYS[1], ARGV[1], -ARGV[3])
    redis.call('HINCRBY', KEYS[1], ARGV[2], ARGV[3])`
  await guard.run(redis, lua, [accounts], [from, to, amount]) // ErrNotHeld: the lease was lost, and nothing was run
}

/** A guard that several tokens have checked requires every one of their leases. */
export async function setUnderBoth(redis: Redis | Cluster, tokens: readonly Token[], account: string, balance: number) {
  const guard = new RedisGuard()
  for (const token of tokens) await token.check(guard)
  await guard.run(redis, `return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])`, [accounts], [account, balance])
}

/** Commands instead of Lua: WATCH, MULTI … EXEC, on a connection that the guard opens with your options. */
export async function transferByCommands(redis: Redis, token: Token, from: string, to: string, amount: number) {
  const guard = new RedisGuard()
  await token.check(guard)
  await guard.transaction(redis, (multi) => {
    multi.hincrby(accounts, from, -amount).hincrby(accounts, to, amount) // called again if the lease is renewed before EXEC
  })
}

/** Stores the fencing token beside the data and refuses a lower one. This protects the data also after a failover that lost the grant. */
export async function setFenced(redis: Redis | Cluster, token: Token, account: string, balance: number) {
  const guard = new RedisGuard()
  const { fencingToken } = await token.check(guard)
  const lua = `
    if tonumber(ARGV[1]) < tonumber(redis.call('HGET', KEYS[1], 'fence') or '0') then return 0 end
    redis.call('HSET', KEYS[1], 'fence', ARGV[1], ARGV[2], ARGV[3])
    return 1`
  const written = await guard.run(redis, lua, [accounts], [String(fencingToken), account, balance])
  return written === 1
}
