/** Guarded writes in Redis: by a script, by MULTI … EXEC, and with a fence that outlives a failover. */
import type { Cluster, Redis } from 'ioredis'
import type { Token } from 'lease-core'
import { RedisGuard } from 'lease-redis'

/** Carries the hash tag of the namespace `bank`: in a Cluster it is on the node where the leases are. */
export const accounts = '{bank}:accounts'

/** The key is a guard that runs a script of yours only while the lease stands: check and writes are one step of the server. */
export async function transfer(redis: Redis | Cluster, token: Token, from: string, to: string, amount: number) {
  const guard = new RedisGuard()
  await token.check(guard)
  const lua = `
    redis.call('HINCRBY', KEYS[1], ARGV[1], -ARGV[3])
    redis.call('HINCRBY', KEYS[1], ARGV[2], ARGV[3])`
  await guard.run(redis, lua, [accounts], [from, to, amount]) // ErrNotHeld: lost it, and nothing was run
}

/** Checked with several tokens, a guard demands that all of their terms stand. */
export async function setUnderBoth(redis: Redis | Cluster, tokens: readonly Token[], account: string, balance: number) {
  const guard = new RedisGuard()
  for (const token of tokens) await token.check(guard)
  await guard.run(redis, `return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])`, [accounts], [account, balance])
}

/** Commands instead of Lua: WATCH, MULTI … EXEC, on a connection that the guard makes like yours. */
export async function transferByCommands(redis: Redis, token: Token, from: string, to: string, amount: number) {
  const guard = new RedisGuard()
  await token.check(guard)
  await guard.transaction(redis, (multi) => {
    multi.hincrby(accounts, from, -amount).hincrby(accounts, to, amount) // called again if the lease is renewed meanwhile
  })
}

/** Remembers the fencing token beside the data and refuses a lower one: holds also where a failover forgot the grant. */
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
