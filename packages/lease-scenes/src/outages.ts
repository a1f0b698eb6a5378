/** What applications live through when the server, or the way to it, fails: a Manager over real connections. */
import { expect } from 'chai'
import { ErrUnknown, Manager, type Client, type ErrLost, type Hold, type LeaseEvent } from 'lease-core'
import type { Proxy } from 'lease-servers'
import { it } from 'mocha'
import { unheard } from './unheard.ts'
import { eventually, sleep, succeeds, unique } from './words.ts'

/** How a Manager reaches the server: past a proxy. */
export interface Way {
  readonly proxy: Proxy
  /** A client whose requests pass the proxy and take a second at most. */
  readonly open: (namespace: string) => Client
  /** What the request of a claim has on the wire, and no other. */
  readonly claiming: RegExp
  /** The stored term, seen past no proxy; undefined: vacant. */
  readonly stored: (
    namespace: string,
    lease: string,
  ) => Promise<{ readonly holder: string; readonly token: string } | undefined>
}

/** A manager and all that it tells of, gone in the end; nothing may be rejected unheard. */
export async function managed(
  way: Way,
  body: (manager: Manager, events: readonly LeaseEvent[], namespace: string) => Promise<void>,
): Promise<void> {
  const namespace = unique('outage')
  const client = way.open(namespace)
  const manager = new Manager({ client })
  const events: LeaseEvent[] = []
  manager.events.subscribe((event) => events.push(event))
  try {
    expect(await unheard(() => body(manager, events, namespace))).to.deep.equal([])
  } finally {
    way.proxy.resume()
    await way.proxy.accept()
    await manager.stop()
    await client.close()
  }
}

/** Declares the scenes in which the way fails. */
export function outages(way: () => Way): void {
  it('a claim whose reply is lost is granted, in the term that the lost reply told of', () =>
    managed(way(), async (manager, _, namespace) => {
      const { proxy, claiming, stored } = way()
      await manager.claim('warm', 'up', 60_000)
      let carriedOut: string | undefined
      const cut = proxy.cutAfterRequest(1, claiming).then(async () => {
        carriedOut = (await stored(namespace, 'l'))?.token
      })
      await manager.claim('l', 'a', 60_000)
      await cut
      const { fencingToken } = await manager.token('l', 'a').check()
      expect(carriedOut).to.equal(String(fencingToken))
      expect(await stored(namespace, 'l')).to.deep.equal({ holder: 'a', token: carriedOut })
    })).timeout(30_000)

  it('a claim given up while the way is down does not keep others out', () =>
    managed(way(), async (manager, _, namespace) => {
      const { proxy, claiming, stored } = way()
      await manager.claim('warm', 'up', 60_000)
      const controller = new AbortController()
      const cut = proxy.cutAfterRequest(1, claiming).then(() => controller.abort(new Error('enough')))
      const outcome = await manager.claim('l', 'a', 60_000, { signal: controller.signal }).then(
        () => 'granted',
        (error: unknown) => error,
      )
      await cut
      if (outcome === 'granted') return // the retry was faster than the abort: the claim is the caller's
      expect(outcome).to.have.property('message', 'enough')
      await eventually(async () => (await stored(namespace, 'l')) === undefined)
      await manager.claim('l', 'b', 60_000)
    })).timeout(30_000)

  it('a holder behind a half-open connection learns that it lost no later than its trust window ends', () =>
    managed(way(), async (manager) => {
      const { proxy } = way()
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
      await eventually(() => succeeds(manager.claim('l', 'b', 1_000)))
    })).timeout(60_000)

  it('renewals that fail for a while and then succeed keep the hold in its term', () =>
    managed(way(), async (manager, events) => {
      const { proxy } = way()
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
    managed(way(), async (manager) => {
      const { proxy } = way()
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
    })).timeout(60_000)
}

/**
 * Two managers of two processes, with a hold and a lease about to lapse here, and a wait and a contender there: over the
 * accident the hold is kept, the wait ends, and the contender follows the holder.
 *
 * @param open makes a client, each of the same namespace
 */
export async function overAccident(open: () => Client, accident: (here: Manager) => Promise<void>): Promise<void> {
  const clients = [open(), open()]
  const [here, there] = clients.map((client) => new Manager({ client, maxSleep: 2_000 })) as [Manager, Manager]
  const reasons = await unheard(async () => {
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
      })
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
    }
  })
  expect(reasons).to.deep.equal([])
}
