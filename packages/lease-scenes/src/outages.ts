/** What applications live through when the server, or the way to it, fails: a Manager over real connections. */
import { expect } from 'chai'
import { ErrUnknown, Manager, type Client, type Clock, type ErrLost, type Hold, type LeaseEvent } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import type { Proxy } from 'lease-servers'
import { it } from 'mocha'
import { unheard } from './unheard.ts'
import { eventually, sleep, succeeds, unique } from './words.ts'

/** How a Manager reaches the server: past a proxy. */
export interface Way {
  readonly proxy: Proxy
  /** A client whose requests pass the proxy and take this long at most. @default a second */
  readonly open: (namespace: string, requestTimeoutMs?: number) => Client
  /** What the request of a claim has on the wire, and no other. */
  readonly claiming: RegExp
  /** The stored term, seen past no proxy; undefined: vacant. */
  readonly stored: (
    namespace: string,
    lease: string,
  ) => Promise<{ readonly holder: string; readonly token: string } | undefined>
}

export interface ManagedOptions {
  /** How long a request may take; long where it must succeed. @default what the way sets */
  readonly requestTimeoutMs?: number
  /** The clock of the manager; the client keeps the machine's. @default the machine's clocks */
  readonly clock?: Clock
}

/** How many renewals the server has answered, by lease. */
export type AnsweredRenewals = (lease: string) => number

/** For requests that must succeed however slow the machine is. */
const patient: ManagedOptions = { requestTimeoutMs: 30_000 }

/** A manager and all that it reports, stopped in the end; nothing may be rejected unheard. */
export async function managed(
  way: Way,
  body: (
    manager: Manager,
    events: readonly LeaseEvent[],
    namespace: string,
    answered: AnsweredRenewals,
  ) => Promise<void>,
  { requestTimeoutMs, clock }: ManagedOptions = {},
): Promise<void> {
  const namespace = unique('outage')
  const client = way.open(namespace, requestTimeoutMs)
  const answered = countRenewals(client)
  const manager = new Manager({ client, clock })
  const events: LeaseEvent[] = []
  manager.events.subscribe((event) => events.push(event))
  try {
    expect(await unheard(() => body(manager, events, namespace, answered))).to.deep.equal([])
  } finally {
    way.proxy.resume()
    await way.proxy.accept()
    await manager.stop()
    await client.close()
  }
}

/** Counts the answers on their way from the client to its Manager. */
export function countRenewals(client: Client): AnsweredRenewals {
  const counts = new Map<string, number>()
  const renewLease = client.renewLease?.bind(client)
  if (renewLease === undefined) throw new Error('a client without renewLease')
  client.renewLease = (renewal) => {
    const { lease, holder, fencingToken, durationMs } = renewal
    renewLease({
      lease,
      holder,
      fencingToken,
      durationMs,
      granted() {
        counts.set(lease, (counts.get(lease) ?? 0) + 1)
        renewal.granted()
      },
      failed: (error) => renewal.failed(error),
    })
  }
  return (lease) => counts.get(lease) ?? 0
}

/** Declares the scenes in which the way fails. */
export function outages(way: () => Way): void {
  it('a claim whose reply is lost is granted, in the term that the lost reply reported', () =>
    managed(
      way(),
      async (manager, _, namespace) => {
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
      },
      patient,
    ))

  it('a claim given up while the way is down does not keep others out', () =>
    managed(
      way(),
      async (manager, _, namespace) => {
        const { proxy, claiming, stored } = way()
        await manager.claim('warm', 'up', 60_000)
        const controller = new AbortController()
        // The abort comes in the very turn of the cut: the client has not noticed the cut yet, and cannot have retried.
        const cut = proxy.cutAfterRequest(1, claiming).then(() => controller.abort(new Error('enough')))
        const outcome = await manager.claim('l', 'a', 60_000, { signal: controller.signal }).then(
          () => 'granted',
          (error: unknown) => error,
        )
        await cut
        expect(outcome).to.have.property('message', 'enough')
        await eventually(async () => (await stored(namespace, 'l')) === undefined)
        await manager.claim('l', 'b', 60_000)
      },
      patient,
    ))

  it('a holder behind a half-open connection learns that it lost no later than its trust window ends', () =>
    managed(
      way(),
      async (manager, _, __, answered) => {
        for (let durationMs = 1_000; !(await losesInTime(way().proxy, manager, answered, durationMs)); durationMs *= 2);
      },
      patient,
    ))

  it('a hold behind a half-open connection is lost exactly when its trust window ends, and is unreachable', async () => {
    const clock = new TestClock()
    await managed(
      way(),
      async (manager) => {
        const hold = await manager.hold('l', 'a', { duration: 60_000 })
        await clock.advance(10_000)
        await hold.renew()
        way().proxy.pause()
        await clock.advance(59_900)
        expect(hold.held).to.equal(true)
        expect(hold.signal.aborted).to.equal(false)
        await clock.advance(39) // 0.1 % of the duration and a millisecond are left
        expect(hold.signal.aborted).to.equal(true)
        expect(hold.held).to.equal(false)
        expect((hold.signal.reason as ErrLost).reason).to.equal('unreachable')
      },
      { ...patient, clock },
    )
  })

  it('renewals that fail for a while and then succeed keep the hold in its term', () =>
    managed(
      way(),
      async (manager, events, _, answered) => {
        const { proxy } = way()
        const hold = await manager.hold('l', 'a', { duration: 60_000, renewEvery: 100 })
        await proxy.refuse()
        await eventually(() => events.some((event) => event.type === 'retrying' && event.operation === 'renewal'))
        await proxy.accept()
        const before = answered('l')
        await eventually(() => answered('l') >= before + 3)
        expect(hold.held).to.equal(true)
        expect((await manager.token('l', 'a').check()).fencingToken).to.equal(hold.fencingToken)
        await hold.release()
      },
      patient,
    ))

  it('a server that cannot be reached is ErrUnknown with its cause, for every call, and then the manager goes on', () =>
    managed(
      way(),
      async (manager) => {
        const { proxy } = way()
        await eventually(() => succeeds(manager.claim('l', 'a', 60_000)))
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
      },
      { requestTimeoutMs: 250 },
    ))
}

/** Whether holds of this duration outlived their first renewals: only then the attempt proves anything. */
async function losesInTime(
  proxy: Proxy,
  manager: Manager,
  answered: AnsweredRenewals,
  durationMs: number,
): Promise<boolean> {
  const startedMs = performance.now()
  // To ask a hold whether it is held ends it where no timer has: one hold is asked, the other is not.
  const granted = await Promise.all(
    ['asked', 'heard'].map((name) =>
      manager.hold(`${name}-${durationMs}`, 'a', { duration: durationMs }).catch((error: unknown) => {
        if (error instanceof ErrUnknown) return undefined // no grant came in time
        throw error
      }),
    ),
  )
  const [asked, heard] = granted
  if (asked === undefined || heard === undefined) return false
  const isLost = (): boolean => asked.signal.aborted || heard.signal.aborted
  await eventually(() => isLost() || (answered(asked.lease) > 0 && answered(heard.lease) > 0))
  proxy.pause()
  const pausedMs = performance.now()
  if (isLost()) {
    proxy.resume()
    return false
  }
  // What was answered was sent before the pause: both windows end before this timer, which is as late as theirs are.
  const inTime = sleep(durationMs).then(() => heard.signal.aborted)
  let heldAtMs = pausedMs
  for (let nowMs = pausedMs; asked.held; nowMs = performance.now()) {
    heldAtMs = nowMs
    await sleep(5)
  }
  expect(heldAtMs - pausedMs).to.be.lessThan(durationMs)
  expect(performance.now() - startedMs).to.be.greaterThan(durationMs * 0.9)
  expect(await inTime, 'aborted before a timer that was due later').to.equal(true)
  expect(heard.held).to.equal(false)
  for (const { signal } of [asked, heard]) {
    // `expired`: this process stalled until the window was over, and no renewal was due or failed before.
    expect((signal.reason as ErrLost).reason).to.be.oneOf(['unreachable', 'expired'])
  }
  proxy.resume()
  await eventually(() => succeeds(manager.claim(heard.lease, 'b', 60_000)))
  return true
}

/**
 * Two managers of two processes, with a hold and a lease about to lapse here, and a wait and a contender there: over the
 * accident the hold is kept, the wait ends, and the contender follows the holder.
 *
 * @param open     makes a client, each of the same namespace
 * @param accident resolves when the server is back; `noticed` resolves when a renewal has failed
 */
export async function overAccident(
  open: () => Client,
  accident: (here: Manager, noticed: () => Promise<void>) => Promise<void>,
): Promise<void> {
  const clients = [open(), open()] as const
  const answered = countRenewals(clients[0])
  const [here, there] = clients.map((client) => new Manager({ client, maxSleep: 2_000 })) as [Manager, Manager]
  let failures = 0
  here.events.subscribe((event) => {
    if (event.type === 'retrying' && event.operation === 'renewal') failures++
  })
  const noticed = async (): Promise<void> => {
    const before = failures
    await eventually(() => failures > before, 'a renewal that fails')
  }
  const reasons = await unheard(async () => {
    try {
      for (const manager of [here, there]) await eventually(() => succeeds(manager.claim('warm', 'up', 60_000)))
      const hold = await here.hold('kept', 'a', { duration: 300_000, renewEvery: 500 })
      await here.claim('lapsing', 'a', 2_000)
      const wait = there.waitUntilExpired('lapsing')
      let contender: Hold | undefined
      const contending = there
        .hold('kept', 'b', { duration: 300_000, wait: true })
        .then((granted) => (contender = granted))

      await accident(here, noticed)

      const before = answered('kept')
      await eventually(() => answered('kept') > before)
      await wait
      await eventually(async () => {
        try {
          return (await there.leases()).get('kept')?.holder === 'a'
        } catch {
          return false
        }
      })
      await eventually(() => succeeds(here.claim('recovered', 'a', 60_000))) // a release is sent once only
      expect(hold.held).to.equal(true)
      expect(contender).to.equal(undefined)
      await hold.release()
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
