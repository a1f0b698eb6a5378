import { Etcd3 } from 'etcd3'
import { expect } from 'chai'
import { Redis } from 'ioredis'
import * as core from 'lease-core'
import * as onEtcd from 'lease-etcd'
import * as onPostgres from 'lease-postgres'
import * as onRedis from 'lease-redis'
import { unique } from 'lease-scenes'
import { etcdTargets, freshDatabase, isMatrix, postgresTargets, redisTargets } from 'lease-servers'
import { Pool } from 'pg'
import { anotherCopy, type Copy } from './copies.ts'

async function failure(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}

describe('two copies of lease-core', () => {
  let copy: Copy<typeof core>
  before(async () => (copy = await anotherCopy('lease-core')))
  after(() => copy[Symbol.asyncDispose]())

  const { ErrClaimDenied, ErrNotHeld, ErrInvalid, ErrNotValid, ErrUnknown, ErrLost, ErrTrapdoor, ErrStopped } = core
  const ours = { ErrClaimDenied, ErrNotHeld, ErrInvalid, ErrNotValid, ErrUnknown, ErrLost, ErrTrapdoor, ErrStopped }
  const names = Object.keys(ours) as (keyof typeof ours)[]

  it('are two', () => {
    expect(copy.module.Manager).not.to.equal(core.Manager)
    expect(copy.module.ErrNotHeld).not.to.equal(core.ErrNotHeld)
  })

  for (const name of names) {
    it(`recognise each other's ${name}, and no other error as one`, () => {
      const theirs = copy.module
      const [one, other] = [new ours[name]('x', { reason: 'taken' }), new theirs[name]('x', { reason: 'taken' })]
      expect(other).to.be.instanceOf(ours[name]).and.instanceOf(core.LeaseError)
      expect(one).to.be.instanceOf(theirs[name]).and.instanceOf(theirs.LeaseError)
      for (const third of names.filter((any) => any !== name)) expect(other).not.to.be.instanceOf(ours[third])
      expect(new Error('x')).not.to.be.instanceOf(theirs[name])
    })
  }

  it("recognise each other's errors of a class derived from one of ours, by its name", () => {
    const derive = ({ ErrNotHeld }: typeof core, own: string): typeof core.ErrNotHeld =>
      ({
        [own]: class extends ErrNotHeld {
          override readonly name = own
        },
      })[own] as typeof core.ErrNotHeld
    const [ours, theirs, other] = [derive(core, 'ErrFenced'), derive(copy.module, 'ErrFenced'), derive(core, 'ErrNone')]
    expect(new theirs('x')).to.be.instanceOf(ours).and.instanceOf(core.ErrNotHeld)
    expect(new ours('x')).to.be.instanceOf(theirs)
    expect(new other('x')).not.to.be.instanceOf(theirs)
    expect(new copy.module.ErrNotHeld('x')).not.to.be.instanceOf(ours)
    expect(Object.assign(new copy.module.ErrTrapdoor('x'), { name: 'ErrFenced' })).not.to.be.instanceOf(ours)
  })

  it('a MemoryGuard and a MemoryStore of one are understood by the other', async () => {
    const store = new copy.module.MemoryStore()
    const client = core.memoryClient({ store })
    const manager = new core.Manager({ client })
    await manager.claim('job', 'ann', { minutes: 1 })
    const guard = new copy.module.MemoryGuard(() => 'ran')
    await manager.token('job', 'ann').check(guard)
    expect(guard.result).to.equal('ran')
    const theirs = new copy.module.Manager({ client: copy.module.memoryClient({ store }) })
    expect(await failure(theirs.claim('job', 'ben', { minutes: 1 }))).to.be.instanceOf(core.ErrClaimDenied)
    await Promise.all([manager.stop(), theirs.stop()])
  })

  it('a Manager of one understands the refusals of a client of the other', async () => {
    const client = copy.module.memoryClient()
    const manager = new core.Manager({ client })
    await manager.claim('job', 'ann', { minutes: 1 })
    expect(await failure(manager.claim('job', 'ben', { minutes: 1 }))).to.be.instanceOf(core.ErrClaimDenied)
    expect(await failure(manager.token('job', 'ben').check())).to.be.instanceOf(core.ErrNotHeld)
    await manager.stop()
    await client.close()
  })
})

for (const target of postgresTargets().slice(0, 1))
  describe(`two copies of lease-postgres, on ${target.name}`, () => {
    it("a SqlGuard of one is armed by the other's tokens", async () => {
      await using copy = await anotherCopy<typeof onPostgres>('lease-postgres')
      await using database = await freshDatabase(target)
      const pool = new Pool({ connectionString: database.url })
      await onPostgres.migrate(pool)
      const client = onPostgres.postgresClient({ pool, namespace: 'copies', listen: false })
      const manager = new core.Manager({ client })
      const token = await manager.claim('job', 'ann', { minutes: 1 })
      const guard = new copy.module.SqlGuard()
      expect(guard).not.to.be.instanceOf(onPostgres.SqlGuard)
      await token.check(guard)
      const held = async (): Promise<number | null> =>
        (await pool.query(`SELECT 1 WHERE ${guard.text}`, guard.values)).rowCount
      expect(await held()).to.equal(1)
      await manager.release('job', 'ann')
      expect(await held()).to.equal(0)
      expect(() => guard.assertHeld(0)).to.throw(core.ErrNotHeld)
      await manager.stop()
      await client.close()
      await pool.end()
    })
  })

// Guards of all adapters are recognised in the same way: the test command tries one.
for (const target of isMatrix() ? redisTargets('server') : [])
  describe(`two copies of lease-redis, on ${target.name}`, () => {
    it("a RedisGuard of one is armed by the other's tokens", async () => {
      await using copy = await anotherCopy<typeof onRedis>('lease-redis')
      const connection = new Redis(target.url)
      const client = onRedis.redisClient({ redis: connection, namespace: unique('copies'), listen: false })
      const manager = new core.Manager({ client })
      const token = await manager.claim('job', 'ann', { minutes: 1 })
      const guard = new copy.module.RedisGuard()
      expect(guard).not.to.be.instanceOf(onRedis.RedisGuard)
      await token.check(guard)
      expect(await guard.run(connection, 'return 7')).to.equal(7)
      await manager.release('job', 'ann')
      expect(await failure(guard.run(connection, 'return 7'))).to.be.instanceOf(core.ErrNotHeld)
      await manager.stop()
      await client.close()
      connection.disconnect()
    })
  })

for (const target of isMatrix() ? etcdTargets(1) : [])
  describe(`two copies of lease-etcd, on ${target.name}`, () => {
    it("an EtcdGuard of one is armed by the other's tokens", async () => {
      await using copy = await anotherCopy<typeof onEtcd>('lease-etcd')
      const driver = new Etcd3({ hosts: [...target.endpoints] })
      const client = onEtcd.etcdClient({ etcd: driver, namespace: unique('copies'), watch: false })
      const manager = new core.Manager({ client })
      const token = await manager.claim('job', 'ann', { minutes: 1 })
      const guard = new copy.module.EtcdGuard()
      expect(guard).not.to.be.instanceOf(onEtcd.EtcdGuard)
      await token.check(guard)
      const commit = async (): Promise<boolean> =>
        (await guard.if(driver).then(driver.get('nothing')).commit()).succeeded
      expect(await commit()).to.equal(true)
      await manager.release('job', 'ann')
      expect(await commit()).to.equal(false)
      await manager.stop()
      await client.close()
      driver.close()
    })
  })
