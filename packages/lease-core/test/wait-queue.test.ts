import { expect } from 'chai'
import { DateTime } from 'luxon'
import { sleep } from '#src/clock.ts'
import { TimerQueue } from '#src/timer-queue.ts'
import { ErrClaimDenied, ErrUnknown } from '#src/errors.ts'
import type { Hold } from '#src/hold.ts'
import type { Info } from '#src/lease.ts'
import type { WaitRequest } from '#src/lease-waiters.ts'
import { parseHoldOptions } from '#src/options.ts'
import { TestClock, track } from '#src/testing/index.ts'
import { WaitQueue, type WaitQueueHost } from '#src/wait-queue.ts'

/** A queue whose host holds nothing, knows nothing, and answers claims as the test says. */
function queueOf(
  claim: (request: WaitRequest) => Promise<Hold>,
  host: Partial<WaitQueueHost> = {},
): { clock: TestClock; queue: WaitQueue; claims: string[] } {
  const clock = new TestClock()
  const claims: string[] = []
  const queue = new WaitQueue({
    clock,
    timers: new TimerQueue(clock),
    maxSleepMs: 60_000,
    known: () => undefined,
    hasLapsed: () => false,
    watch: () => Promise.resolve(),
    unwatch: () => {},
    mustWatch: false,
    hintDelayMs: 0,
    leaveQueue: () => {},
    waiting: () => {},
    holderHere: () => undefined,
    acquire: (request) => {
      claims.push(request.holder)
      return claim(request)
    },
    denied: ({ holder }) => new ErrClaimDenied('denied', { holder }),
    retrying: () => {},
    ...host,
  })
  return { clock, queue, claims }
}

function request(holder: string, wait: number | boolean = true): WaitRequest {
  return { leases: ['db'], holder, options: parseHoldOptions({ duration: 30_000, wait }, []) }
}

describe('WaitQueue', () => {
  it('lets a waiter that met only those ahead claim again when they have been notified, however late hints come', async () => {
    for (const hintDelayMs of [0, 5_000]) {
      const { clock, queue, claims } = queueOf(({ holder }) => Promise.reject(new ErrClaimDenied('busy', { holder })), {
        hintDelayMs,
        acquire: (asked, _signal, ticket) => {
          claims.push(asked.holder)
          if (ticket !== undefined) Object.assign(ticket, { place: 2, ahead: 1 })
          return Promise.reject(new ErrClaimDenied('others are ahead', { holder: asked.holder }))
        },
      })
      track(queue.contend(request('a')).outcome)
      await clock.settle()
      for (let step = 0; step < 49; step++) await clock.advance(100)
      expect(claims.length > 1).to.equal(hintDelayMs === 0)
      for (let step = 0; step < 5; step++) await clock.advance(100)
      expect(claims.length).to.be.greaterThan(1)
      queue.close(new Error('over'))
    }
  })

  it('ends the wait of one whose own holder is refused the lease because it has it, and of no other', async () => {
    const { clock, queue, claims } = queueOf(({ holder }) =>
      Promise.reject(new ErrClaimDenied('held', { holder, currentHolder: 'a' })),
    )
    const [other, own, next] = ['b', 'a', 'c'].map((holder) => track(queue.contend(request(holder)).outcome))
    await clock.settle()
    expect([other?.state, own?.state, next?.state, claims[0]]).to.deep.equal(['pending', 'pending', 'pending', 'b'])
    queue.close(new Error('over'))

    const alone = queueOf(({ holder }) => Promise.reject(new ErrClaimDenied('held', { holder, currentHolder: 'a' })))
    const wait = track(alone.queue.contend(request('a')).outcome)
    await alone.clock.settle()
    expect(wait.error).to.be.instanceOf(ErrClaimDenied)
  })

  it('pauses longer and longer while a store refuses what seems vacant', async () => {
    const { clock, queue, claims } = queueOf(({ holder }) => Promise.reject(new ErrClaimDenied('no', { holder })))
    const { leave } = queue.contend(request('a'))
    await clock.advance(60_000)
    expect(claims.length).to.be.lessThan(60)
    leave(new Error('enough'))
    expect(clock.pending).to.equal(0)
  })

  it('denies a wait that runs out where the store said that others are ahead, though the lease is vacant', async () => {
    const { clock, queue } = queueOf(({ holder }) => Promise.reject(new ErrClaimDenied('others first', { holder })))
    const { outcome, leave } = queue.contend(request('a', 1_000))
    const wait = track(outcome)
    await clock.advance(1_000)
    expect(wait.error).to.be.instanceOf(ErrClaimDenied)
    leave()
  })

  it('says that an earlier claim was denied where a wait runs out before the last one is answered', async () => {
    let claims = 0
    const { clock, queue } = queueOf(({ holder }) =>
      ++claims === 1 ? Promise.reject(new ErrClaimDenied('others first', { holder })) : new Promise(() => {}),
    )
    const { outcome, leave } = queue.contend(request('a', 1_000))
    const wait = track(outcome)
    await clock.advance(1_000)
    expect(wait.error).to.be.instanceOf(ErrUnknown)
    expect(wait.error).to.have.property('message').that.contains('an earlier claim was denied')
    leave()
  })

  for (const { tookMs, expected } of [
    { tookMs: 5, expected: 'in its turn at 0' },
    { tookMs: 30, expected: 'past the queue at 0, past the queue at 65' },
    { tookMs: 60, expected: 'past the queue at 0' },
  ]) {
    it(`claims for a wait of 100 ms as there is time for a ticket and an answer, where a claim takes ${tookMs} ms`, async () => {
      const claims: string[] = []
      const { clock, queue } = queueOf(() => expect.fail(), {
        acquire: async ({ holder }, signal, ticket) => {
          claims.push(`${ticket === undefined ? 'past the queue' : 'in its turn'} at ${clock.monotonic() - startMs}`)
          await sleep(clock, tookMs, signal)
          if (holder === 'before') return {} as Hold
          if (ticket !== undefined) Object.assign(ticket, { place: 7, ahead: 0 })
          throw new ErrClaimDenied('held', { holder, currentHolder: 'x' })
        },
        known: () => info,
      })
      let startMs = 0
      const info = { holder: 'x', expiry: DateTime.fromMillis(clock.now() + 60_000) } as Info
      const before = queue.contend(request('before'))
      await clock.advance(tookMs)
      before.leave()
      claims.length = 0
      startMs = clock.monotonic()
      const { outcome, leave } = queue.contend(request('a', 100))
      const wait = track(outcome)
      await clock.advance(100)
      expect(wait.error).to.be.instanceOf(ErrClaimDenied)
      leave()
      expect(claims.join(', ')).to.equal(expected)
    })
  }

  it('asks for the next waiter when the claim of the first met an unexpected error', async () => {
    let fails = true
    const { clock, queue, claims } = queueOf(() => (fails ? Promise.reject(new Error('a bug')) : new Promise(() => {})))
    const first = track(queue.contend(request('a')).outcome)
    await clock.settle()
    fails = false
    void queue.contend(request('b'))
    await clock.settle()
    expect([first.state, claims]).to.deep.equal(['rejected', ['a', 'b']])
    queue.close(new Error('over'))
  })

  it('asks for the first waiter when a claim of another waiter is given up in flight', async () => {
    let here: string | undefined = 'a'
    const claims: string[] = []
    const acquire: WaitQueueHost['acquire'] = ({ holder }, signal) => {
      claims.push(holder)
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
    }
    const { clock, queue } = queueOf(() => expect.fail(), { holderHere: () => here, acquire })
    void queue.contend(request('b'))
    const own = queue.contend(request('a'))
    own.outcome.catch(() => {})
    await clock.settle()
    here = undefined // and nobody reports it
    own.leave(new Error('enough'))
    await clock.advance(60_000)
    expect(claims).to.deep.equal(['a', 'b'])
    queue.close(new Error('over'))
  })
})
