/** What applications live through when the server, or the way to it, fails: a Manager over real connections. */
import { expect } from 'chai'
import { ErrUnknown, Manager, type ErrLost, type Hold, type LeaseEvent } from 'lease-core'
import { migrate, postgresClient } from 'lease-postgres'
import { freshDatabase, postgresTargets, startPostgres, startProxy, type Postgres, type Proxy } from 'lease-servers'
import { describe, it } from 'mocha'
import { Pool } from 'pg'
import { eventually, sleep, unique } from './setting.ts'

for (const target of postgresTargets()) {
  describe(`a manager whose way to ${target.name} fails`, () => {
    let direct: Pool
    let proxy: Proxy
    let pool: Pool
    let drop: () => Promise<void>

    before(async () => {
      const database = await freshDatabase(target)
      drop = () => database.drop()
      direct = new Pool({ connectionString: database.url })
      direct.on('error', () => {})
      await migrate(direct)
      proxy = await startProxy(database.url)
      pool = new Pool({ connectionString: proxy.url(database.url) })
    })
    after(async () => {
      await pool.end()
      await proxy.close()
      await direct.end()
      await drop()
    })

    /** A manager with its client, both gone in the end. */
    async function managed(
      body: (manager: Manager, events: LeaseEvent[], namespace: string) => Promise<void>,
    ): Promise<void> {
      const namespace = unique('outage')
      const client = postgresClient({ pool, namespace, requestTimeout: 1_000 })
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

    async function row(
      namespace: string,
      lease: string,
    ): Promise<{ holder: string | null; token: string } | undefined> {
      const text = 'SELECT holder, token::text FROM lease WHERE ns = $1 AND name = $2'
      return (await direct.query<{ holder: string | null; token: string }>(text, [namespace, lease])).rows[0]
    }

    it('a claim whose reply is lost is granted, in the term that the lost reply told of', () =>
      managed(async (manager, _, namespace) => {
        await manager.claim('warm', 'up', 60_000)
        let committed: string | undefined
        const cut = proxy.cutAfterRequest(1, /lease_claim_/).then(async () => {
          committed = (await row(namespace, 'l'))?.token
        })
        await manager.claim('l', 'a', 60_000)
        await cut
        const { fencingToken } = await manager.token('l', 'a').check()
        expect(committed).to.equal(String(fencingToken))
        expect(await row(namespace, 'l')).to.deep.equal({ holder: 'a', token: committed })
      }))

    it('a claim given up while the way is down does not keep others out', () =>
      managed(async (manager, _, namespace) => {
        await manager.claim('warm', 'up', 60_000)
        const controller = new AbortController()
        const cut = proxy.cutAfterRequest(1, /lease_claim_/).then(() => controller.abort(new Error('enough')))
        const outcome = await manager.claim('l', 'a', 60_000, { signal: controller.signal }).then(
          () => 'granted',
          (error: unknown) => error,
        )
        await cut
        if (outcome === 'granted') return // the retry was faster than the abort: the claim is the caller's
        expect(outcome).to.have.property('message', 'enough')
        await eventually(async () => (await row(namespace, 'l'))?.holder === null)
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
        await eventually(() =>
          manager.claim('l', 'b', 1_000).then(
            () => true,
            () => false,
          ),
        )
      }))

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
        await manager.claim('m', 'a', 1_000)
      })).timeout(30_000)
  })
}

describe('a manager whose server is killed and comes back', () => {
  let server: Postgres
  before(async function () {
    this.timeout(60_000)
    server = await startPostgres({ version: 18, durable: true })
  })
  after(() => server.stop())

  it('holds, waiters and contenders recover by themselves, and nothing is rejected unheard', async () => {
    const unheard: unknown[] = []
    const onUnheard = (reason: unknown): void => void unheard.push(reason)
    process.on('unhandledRejection', onUnheard)
    const pools = [1, 2].map(() => new Pool({ connectionString: server.url }))
    const [first, second] = pools as [Pool, Pool]
    await migrate(first)
    const clients = [first, second].map((pool) => postgresClient({ pool, namespace: 'n', requestTimeout: 1_000 }))
    const [here, there] = clients.map((client) => new Manager({ client, maxSleep: 2_000 })) as [Manager, Manager]

    const hold = await here.hold('kept', 'a', { duration: 20_000, renewEvery: 500 })
    await here.claim('lapsing', 'a', 4_000)
    const wait = there.waitUntilExpired('lapsing')
    let contender: Hold | undefined
    const contending = there
      .hold('kept', 'b', { duration: 20_000, wait: true })
      .then((granted) => (contender = granted))

    await server.kill()
    await sleep(1_500)
    await server.restart()

    await wait
    await eventually(async () => {
      try {
        return (await there.leases()).get('kept')?.holder === 'a'
      } catch {
        return false
      }
    })
    expect(hold.held).to.equal(true)
    expect(contender).to.equal(undefined)
    await hold.release()
    await contending
    expect(contender?.held).to.equal(true)
    expect(contender?.fencingToken).to.satisfy((token: bigint) => token > hold.fencingToken)

    await there.stop()
    await here.stop()
    for (const client of clients) await client.close()
    for (const pool of pools) await pool.end()
    process.off('unhandledRejection', onUnheard)
    expect(unheard).to.deep.equal([])
  }).timeout(60_000)
})
