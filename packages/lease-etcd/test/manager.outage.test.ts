/** What applications live through when the servers, or the way to them, fail: a Manager over real connections. */
import { expect } from 'chai'
import { ErrClaimDenied, ErrUnknown, Manager, type ErrLost, type Hold, type LeaseEvent } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import { etcdTargets, startEtcd, startProxy, type Etcd, type EtcdMember, type Proxy } from 'lease-servers'
import { Etcd3 } from 'etcd3'
import { eventually, openSetting, sleep, unique, type Setting } from './setting.ts'

const unheard: unknown[] = []
const onUnheard = (reason: unknown): void => void unheard.push(reason)
before(() => process.on('unhandledRejection', onUnheard))
after(() => {
  process.off('unhandledRejection', onUnheard)
  expect(unheard).to.deep.equal([])
})

function succeeds(call: Promise<unknown>): Promise<boolean> {
  return call.then(
    () => true,
    () => false,
  )
}

for (const target of etcdTargets(1)) {
  describe(`a manager whose way to ${target.name} fails`, () => {
    let direct: Setting
    let proxy: Proxy
    let etcd: Etcd3

    before(async () => {
      const url = target.endpoints[0] ?? ''
      direct = openSetting(target)
      proxy = await startProxy(url)
      etcd = direct.newEtcd({ hosts: proxy.url(url) })
    })
    after(async () => {
      await direct[Symbol.asyncDispose]()
      await proxy.close()
    })

    /** A manager with its client, both gone in the end. */
    async function managed(
      body: (manager: Manager, events: LeaseEvent[], namespace: string) => Promise<void>,
    ): Promise<void> {
      const namespace = unique('outage')
      const client = etcdClient({ etcd, namespace, requestTimeout: 1_000 })
      const manager = new Manager({ client })
      const events: LeaseEvent[] = []
      manager.events.subscribe((event) => events.push(event))
      try {
        await body(manager, events, namespace)
      } finally {
        proxy.resume()
        await manager.stop()
        await client.close()
      }
    }

    async function record(namespace: string, lease: string): Promise<{ holder: string; token: string } | undefined> {
      const [kv] = (await direct.etcd.get(`lease/${namespace}/l/${lease}`).exec()).kvs
      return kv && { holder: (JSON.parse(kv.value.toString()) as { h: string }).h, token: kv.create_revision }
    }

    it('a claim whose reply is lost is granted, in the term that the lost reply told of', () =>
      managed(async (manager, _, namespace) => {
        await manager.claim('warm', 'up', 60_000)
        let committed: string | undefined
        const cut = proxy.cutAfterRequest(1, /"h":"a"/).then(async () => {
          committed = (await record(namespace, 'l'))?.token
        })
        await manager.claim('l', 'a', 60_000)
        await cut
        const { fencingToken } = await manager.token('l', 'a').check()
        expect(committed).to.equal(String(fencingToken))
        expect(await record(namespace, 'l')).to.deep.equal({ holder: 'a', token: committed })
      }))

    it('a claim given up while the way is down does not keep others out', () =>
      managed(async (manager, _, namespace) => {
        await manager.claim('warm', 'up', 60_000)
        const controller = new AbortController()
        const cut = proxy.cutAfterRequest(1, /"h":"a"/).then(() => controller.abort(new Error('enough')))
        const outcome = await manager.claim('l', 'a', 60_000, { signal: controller.signal }).then(
          () => 'granted',
          (error: unknown) => error,
        )
        await cut
        if (outcome === 'granted') return // the retry was faster than the abort: the claim is the caller's
        expect(outcome).to.have.property('message', 'enough')
        await eventually(async () => (await record(namespace, 'l')) === undefined)
        await manager.claim('l', 'b', 60_000)
      }))

    it('a holder behind a half-open connection learns that it lost no later than its trust window ends', () =>
      managed(async (manager) => {
        await manager.claim('warm', 'up', 60_000)
        const durationMs = 2_000
        const startedMs = performance.now()
        const hold = await manager.hold('l', 'a', { duration: durationMs })
        let endedMs = Number.POSITIVE_INFINITY
        hold.signal.addEventListener('abort', () => (endedMs = performance.now()))
        await sleep(900) // one renewal has been answered
        proxy.pause()
        const pausedMs = performance.now()
        await eventually(() => hold.signal.aborted)
        expect(hold.held).to.equal(false)
        expect((hold.signal.reason as ErrLost).reason).to.equal('unreachable')
        expect(endedMs - startedMs).to.be.greaterThan(durationMs * 0.9)
        expect(endedMs - pausedMs).to.be.lessThan(durationMs + 500) // timers of a busy machine are late
        proxy.resume()
        await eventually(() => succeeds(manager.claim('l', 'b', 1_000)), 20_000)
      })).timeout(40_000)

    it('renewals that fail for a while and then succeed keep the hold in its term', () =>
      managed(async (manager, events) => {
        const hold = await manager.hold('l', 'a', { duration: 6_000, renewEvery: 500 })
        await proxy.refuse()
        await eventually(() => events.some((event) => event.type === 'retrying'))
        await proxy.accept()
        await sleep(6_500)
        expect(hold.held).to.equal(true)
        expect((await manager.token('l', 'a').check()).fencingToken).to.equal(hold.fencingToken)
        await hold.release()
      })).timeout(30_000)

    it('a server that cannot be reached is ErrUnknown with its cause, for every call, and then the manager goes on', () =>
      managed(async (manager) => {
        await manager.claim('l', 'a', 60_000)
        await proxy.refuse()
        const calls = {
          claim: manager.claim('m', 'a', 1_000),
          check: manager.token('m', 'a').check(),
          release: manager.release('l', 'a'),
          revoke: manager.revoke('l'),
          pin: manager.pin('l', 'e'),
          pinned: manager.pinned(),
          leases: manager.leases(),
          hold: manager.hold('n', 'a', { duration: 1_000 }),
        }
        const outcomes = await Promise.allSettled<unknown>(Object.values(calls))
        for (const [index, call] of Object.keys(calls).entries()) {
          const outcome = outcomes[index]
          const error: unknown = outcome?.status === 'rejected' ? outcome.reason : undefined
          expect(error, call).to.be.instanceOf(ErrUnknown)
          expect(error, call).to.have.property('cause').that.is.instanceOf(Error)
        }
        await proxy.accept()
        await eventually(() => succeeds(manager.claim('m', 'a', 1_000)))
      })).timeout(30_000)

    it('servers that are back after an outage are found soon, however long it was', () =>
      managed(async (manager) => {
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
        await eventually(() => succeeds(manager.claim('l', 'a', 1_000)), 20_000)
        const foundMs = performance.now() - backMs
        over.abort()
        await Promise.all(callers)
        expect(foundMs).to.be.lessThan(2_500) // gRPC's own pause would be 6.6 seconds
      })).timeout(60_000)
  })
}

/** Two managers of two processes, with a hold here, and a wait and a contender there. */
async function overAccident(server: Etcd, accident: (here: Manager) => Promise<void>): Promise<void> {
  const setting = openSetting(server)
  const namespace = unique('n')
  const clients = [1, 2].map(() => etcdClient({ etcd: setting.newEtcd(), namespace, requestTimeout: 1_000 }))
  const [here, there] = clients.map((client) => new Manager({ client, maxSleep: 2_000 })) as [Manager, Manager]
  try {
    const hold = await here.hold('kept', 'a', { duration: 20_000, renewEvery: 500 })
    await here.claim('lapsing', 'a', 4_000)
    const wait = there.waitUntilExpired('lapsing')
    let contender: Hold | undefined
    const contending = there
      .hold('kept', 'b', { duration: 20_000, wait: true })
      .then((granted) => (contender = granted))

    await accident(here)

    await wait
    await eventually(async () => {
      try {
        return (await there.leases()).get('kept')?.holder === 'a'
      } catch {
        return false
      }
    }, 20_000)
    expect(hold.held).to.equal(true)
    expect(contender).to.equal(undefined)
    await eventually(() => succeeds(hold.release()))
    await contending
    expect(contender?.held).to.equal(true)
    expect(contender?.fencingToken).to.satisfy((token: bigint) => token > hold.fencingToken)
  } finally {
    await there.stop()
    await here.stop()
    for (const client of clients) await client.close()
    await setting[Symbol.asyncDispose]()
  }
}

describe('a manager whose server is killed and comes back', () => {
  let server: Etcd
  before(async function () {
    this.timeout(60_000)
    server = await startEtcd({ durable: true })
  })
  after(() => server.stop())

  it('holds, waiters and contenders recover by themselves, and nothing is rejected unheard', () =>
    overAccident(server, async () => {
      await server.kill()
      await sleep(1_500)
      await server.restart()
    })).timeout(60_000)
})

describe('a manager of three nodes whose leader is killed', () => {
  let server: Etcd
  before(async function () {
    this.timeout(60_000)
    server = await startEtcd({ nodes: 3, durable: true })
  })
  after(() => server.stop())

  it('holds, waiters and contenders go on; a lease that is held is never granted to another, and tokens rise', async () => {
    let killed: EtcdMember | undefined
    await overAccident(server, async (here) => {
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
      await eventually(() => (granted['after'] ?? 0) > 50, 20_000)
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
      await eventually(() => succeeds(manager.claim('m', 'a', 60_000)), 20_000)
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
