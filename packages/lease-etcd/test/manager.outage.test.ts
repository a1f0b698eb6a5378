/** What applications live through when the servers, or the way to them, fail: a Manager over real connections. */
import { expect } from 'chai'
import { ErrClaimDenied, ErrUnknown, Manager, type Client } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import { etcdTargets, startEtcd, startProxy, type Etcd, type EtcdMember } from 'lease-servers'
import { Etcd3 } from 'etcd3'
import {
  eventually,
  managed,
  noneUnheard,
  outages,
  overAccident,
  sleep,
  succeeds,
  unique,
  type Way,
} from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

for (const target of etcdTargets(1)) {
  describe(`a manager whose way to ${target.name} fails`, () => {
    let direct: Setting
    let way: Way
    let etcd: Etcd3

    before(async () => {
      const url = target.endpoints[0] ?? ''
      direct = openSetting(target)
      const proxy = await startProxy(url)
      etcd = direct.newEtcd({ hosts: proxy.url(url) })
      way = {
        proxy,
        open: (namespace) => etcdClient({ etcd, namespace, requestTimeout: 1_000 }),
        claiming: /"h":"a"/,
        async stored(namespace, lease) {
          const [kv] = (await direct.etcd.get(`lease/${namespace}/l/${lease}`).exec()).kvs
          return kv && { holder: (JSON.parse(kv.value.toString()) as { h: string }).h, token: kv.create_revision }
        },
      }
    })
    after(async () => {
      await direct[Symbol.asyncDispose]()
      await way.proxy.close()
    })

    outages(() => way)

    it('servers that are back after an outage are found soon, however long it was', () =>
      managed(way, async (manager) => {
        const { proxy } = way
        await proxy.refuse()
        const over = new AbortController()
        // While calls of the driver overlap, they share a connection, and the pauses between its attempts grow.
        const callers = Array.from({ length: 30 }, async (_, caller) => {
          while (!over.signal.aborted) {
            await succeeds(caller % 2 === 0 ? etcd.get('x').exec() : etcd.leaseClient.leaseGrant({ TTL: '5' }))
            await sleep(Math.random() * 200)
          }
        })
        await sleep(10_000)
        await proxy.accept()
        const backMs = performance.now()
        await eventually(() => succeeds(manager.claim('l', 'a', 1_000)))
        const foundMs = performance.now() - backMs
        over.abort()
        await Promise.all(callers)
        expect(foundMs).to.be.lessThan(2_500) // gRPC's own pause would be 6.6 seconds
      })).timeout(60_000)
  })
}

/** Makes clients of one namespace, each with a driver of its own. */
function opener(setting: Setting): () => Client {
  const namespace = unique('n')
  return () => etcdClient({ etcd: setting.newEtcd(), namespace, requestTimeout: 1_000 })
}

describe('a manager whose server is killed and comes back', () => {
  let server: Etcd
  before(async function () {
    this.timeout(60_000)
    server = await startEtcd({ durable: true })
  })
  after(() => server.stop())

  it('holds, waiters and contenders recover by themselves, and nothing is rejected unheard', async () => {
    await using setting = openSetting(server)
    await overAccident(opener(setting), async () => {
      await server.kill()
      await sleep(1_500)
      await server.restart()
    })
  }).timeout(60_000)
})

describe('a manager of three nodes whose leader is killed', () => {
  let server: Etcd
  before(async function () {
    this.timeout(60_000)
    server = await startEtcd({ nodes: 3, durable: true })
  })
  after(() => server.stop())

  it('holds, waiters and contenders go on; a lease that is held is never granted to another, and tokens rise', async () => {
    await using setting = openSetting(server)
    let killed: EtcdMember | undefined
    await overAccident(opener(setting), async (here) => {
      const last = new Map<string, bigint>()
      const granted: Record<string, number> = { before: 0, after: 0 }
      const now = { phase: 'before' }
      let unknown = 0
      const owners = new Map<string, string>()
      const worker = async (holder: string): Promise<void> => {
        for (let turn = 0; now.phase !== 'over'; turn++) {
          const lease = `l${turn % 5}`
          try {
            await here.claim(lease, holder, 60_000)
          } catch (error) {
            if (error instanceof ErrClaimDenied) await sleep(5)
            else if (error instanceof ErrUnknown) unknown++
            else throw error
            continue
          }
          expect(owners.get(lease)).to.equal(undefined)
          owners.set(lease, holder)
          const fencingToken = await here
            .token(lease, holder)
            .check()
            .then(
              (info) => info.fencingToken,
              () => undefined,
            )
          if (fencingToken !== undefined) {
            expect(fencingToken > (last.get(lease) ?? 0n)).to.equal(true)
            last.set(lease, fencingToken)
          }
          granted[now.phase] = (granted[now.phase] ?? 0) + 1
          owners.delete(lease)
          for (let done = false; !done && now.phase !== 'over';) {
            done = await succeeds(here.release(lease, holder))
          }
        }
      }
      const workers = ['v', 'w', 'x', 'y'].map(worker)
      await sleep(1_500)
      killed = await server.leader()
      await killed.kill()
      now.phase = 'after'
      await eventually(() => (granted['after'] ?? 0) > 50)
      now.phase = 'over'
      await Promise.all(workers)
      expect(granted['before']).to.be.greaterThan(10)
      if (process.env['LEASE_TEST_FIGURES']) console.log({ ...granted, unknown })
    })
    await killed?.restart()
  }).timeout(60_000)

  it('one node of three that is down costs nothing but a second try', async () => {
    const setting = openSetting(server)
    const client = etcdClient({ etcd: setting.newEtcd(), namespace: unique('n') })
    const manager = new Manager({ client })
    await manager.claim('l', 'a', 60_000)
    const leader = await server.leader()
    const follower = server.members.find((member) => member !== leader)
    await follower?.kill()
    try {
      for (let turn = 0; turn < 200; turn++) await manager.claim(`l${turn}`, 'a', 60_000)
    } finally {
      await follower?.restart()
      await manager.stop()
      await client.close()
      await setting[Symbol.asyncDispose]()
    }
  }).timeout(60_000)
})

describe('a manager with an Etcd3 of its own defaults', () => {
  let server: Etcd
  before(async function () {
    this.timeout(60_000)
    server = await startEtcd({ durable: true })
  })
  after(() => server.stop())

  it('goes on after an outage all the same', async () => {
    const etcd = new Etcd3({ hosts: [...server.endpoints] })
    const client = etcdClient({ etcd, namespace: 'n', requestTimeout: 2_000 })
    const manager = new Manager({ client })
    try {
      const hold = await manager.hold('l', 'a', { duration: 20_000, renewEvery: 300 })
      await server.kill()
      await sleep(1_500)
      await server.restart()
      await eventually(() => succeeds(manager.claim('m', 'a', 60_000)))
      expect(hold.held).to.equal(true)
      await hold.release()
    } finally {
      await manager.stop()
      await client.close()
      etcd.close()
    }
  }).timeout(60_000)

  it('has failFast() for the options that it lacks, and they may be changed', () => {
    const { defaultCallOptions } = failFast({ callTimeoutMs: 100 })
    const options = (isStream: boolean): object =>
      typeof defaultCallOptions === 'function'
        ? defaultCallOptions({ isStream, service: 'KV', method: 'range', params: {} } as never)
        : expect.fail()
    expect(options(true)).to.deep.equal({})
    expect(options(false))
      .to.have.property('deadline')
      .that.is.closeTo(Date.now() + 100, 1_000)
  })
})
