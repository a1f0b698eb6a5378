import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { ErrNotHeld } from 'lease-core'
import { redisClient } from 'lease-redis'
import { redisTargets } from 'lease-servers'
import { accounts, setFenced, setUnderBoth, transfer, transferByCommands } from './redis-guard.ts'
import { failure, openRivals, type Rivals } from './rivals.ts'

for (const target of redisTargets()) {
  describe(`example: guards in Redis, on ${target.name}`, () => {
    let redis: Redis | Cluster
    let rivals: Rivals
    before(() => {
      const options = { keyPrefix: `examples-${process.pid}:` } // a server may have an account {bank}:accounts of its own
      redis = target.kind === 'cluster' ? new Cluster([...target.nodes], options) : new Redis(target.url, options)
      rivals = openRivals(() => redisClient({ redis, namespace: 'bank' }))
    })
    beforeEach(() => redis.hset(accounts, { ann: 100, ben: 100 }))
    afterEach(() => redis.del(accounts))
    after(async () => {
      await rivals[Symbol.asyncDispose]()
      redis.disconnect()
    })

    async function balances(): Promise<number[]> {
      return (await redis.hmget(accounts, 'ann', 'ben')).map(Number)
    }

    it('a script: the holder moves money', async () => {
      await transfer(redis, await rivals.hold(), 'ann', 'ben', 10)
      expect(await balances()).to.deep.equal([90, 110])
    })

    it('a script: who lost the lease writes nothing', async () => {
      const token = await rivals.hold()
      await rivals.takeOver(token)
      await token.check() // worker-1 still relies on its grant: only the trapdoor asks the server
      expect(await failure(transfer(redis, token, 'ann', 'ben', 10))).to.be.instanceOf(ErrNotHeld)
      expect(await balances()).to.deep.equal([100, 100])
    })

    it('two leases: it takes both', async () => {
      const tokens = [await rivals.hold(), await rivals.hold()] as const
      await setUnderBoth(redis, tokens, 'ann', 1)
      await rivals.takeOver(tokens[1])
      expect(await failure(setUnderBoth(redis, tokens, 'ann', 2))).to.be.instanceOf(ErrNotHeld)
      expect(await balances()).to.deep.equal([1, 100])
    })

    it('a fence: a lower fencing token than the last is refused, no matter who the server says holds the lease', async () => {
      const token = await rivals.hold()
      expect(await setFenced(redis, token, 'ann', 50)).to.equal(true)
      await redis.hset(accounts, 'fence', '9000000000000000') // as if a later holder had written, on a server that is gone
      expect(await setFenced(redis, token, 'ann', 60)).to.equal(false)
      expect(await balances()).to.deep.equal([50, 100])
    })

    if (target.kind === 'cluster') return

    it('MULTI … EXEC: the holder moves money', async () => {
      await transferByCommands(redis as Redis, await rivals.hold(), 'ann', 'ben', 10)
      expect(await balances()).to.deep.equal([90, 110])
    })

    it('MULTI … EXEC: who lost the lease writes nothing', async () => {
      const token = await rivals.hold()
      await rivals.takeOver(token)
      expect(await failure(transferByCommands(redis as Redis, token, 'ann', 'ben', 10))).to.be.instanceOf(ErrNotHeld)
      expect(await balances()).to.deep.equal([100, 100])
    })
  })
}
