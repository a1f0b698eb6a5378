/** The tickets in a record: which claim gets one, which ones are notified, and which ones leave the queue. */
import { expect } from 'chai'
import type { ClaimOp } from '#src/substrate.ts'
import { decide, type Decision, type DecisionContext, type SingleOp } from '#src/records/decide.ts'
import { queued, type Queued } from '#src/records/queue.ts'
import { ABSENT, type LeaseRecord, type QueueTicket } from '#src/records/record.ts'
import { claim, CLIENT, OTHER, release } from './records.setting.ts'

const NOW_MS = 1_700_000_000_000
const CONTEXT: DecisionContext = {
  version: 'v2',
  client: CLIENT,
  isStale: false,
  nowMs: NOW_MS,
  maxSkewMs: undefined,
}

const ticket = (place: number, more: Partial<QueueTicket> = {}): QueueTicket => ({
  place,
  nonce: `${CLIENT}${place}`,
  weight: 1,
  untilMs: NOW_MS + 150_000,
  ...more,
})

/** A lease that is vacant or held, with tickets 1, 2, … */
const lease = (tickets: number | readonly QueueTicket[], { isHeld = false } = {}): LeaseRecord => {
  const queue = typeof tickets === 'number' ? Array.from({ length: tickets }, (_, index) => ticket(index + 1)) : tickets
  const term = {
    holder: 'a',
    version: 'e1',
    durationMs: 9_000,
    untilMs: NOW_MS,
    nonce: 'n1',
    value: undefined,
    weight: undefined,
  }
  return {
    ...ABSENT,
    version: 'v1',
    fencingToken: 7n,
    nonces: ['n1'],
    places: queue.at(-1)?.place ?? 0,
    queue,
    term: isHeld ? term : undefined,
  }
}

const waiter = (place: number, more: Partial<ClaimOp> = {}): ClaimOp => claim('l', 'w', { place, ...more })
const decided = (op: SingleOp, record: LeaseRecord): Decision => decide(op, record, CONTEXT)
/** The places of those who wait afterwards; undefined: nothing is written. */
const placesAfter = ({ writes, after }: Decision): readonly number[] | undefined =>
  writes.length === 0 ? undefined : after.queue.map(({ place }) => place)
const queuedOf = (
  op: ClaimOp,
  record: LeaseRecord,
  isHeld = true,
): { readonly after?: LeaseRecord; readonly queued: Queued } => queued(op, record, CONTEXT, { isHeld })

const expectNoChange = (op: SingleOp, record: LeaseRecord): void => {
  const { verdict, writes } = decided(op, record)
  expect([verdict.outcome, verdict.told, writes.length]).to.deep.equal(['granted', undefined, 0])
}

describe('the tickets of a lease', () => {
  it('are no more than `maxWaiters` while it is held; who has one keeps it, and of a vacant lease there is always one', () => {
    const record = lease(2, { isHeld: true })
    expect(queuedOf(waiter(0, { maxWaiters: 2 }), record)).to.deep.equal({ queued: { isFull: true } })
    expect(queuedOf(waiter(0, { maxWaiters: 3 }), record).queued.ticket).to.deep.equal({ place: 3, ahead: 2 })
    expect(queuedOf(waiter(2, { maxWaiters: 1 }), record).queued.ticket).to.deep.equal({ place: 2, ahead: 1 })
    const again = waiter(0, { maxWaiters: 2, nonce: `${CLIENT}2` }) // sent twice
    expect(queuedOf(again, record).queued.ticket).to.deep.equal({ place: 2, ahead: 1 })
    expect(queuedOf(waiter(0, { maxWaiters: 2 }), lease(2), false).queued.ticket).to.deep.equal({ place: 3, ahead: 2 })
    expect(queuedOf(claim('l', 'w'), record)).to.deep.equal({ queued: {} })
  })

  it('have the weight of the latest claim', () => {
    const share = (weight: number) => ({
      share: { weight, capacity: 5, passing: 0, lapsed: new Map<string, string>() },
    })
    const record = lease(2)
    expect(queuedOf(waiter(1, share(1)), record).after).to.equal(undefined) // nothing to write
    expect(queuedOf(waiter(1, share(3)), record).after?.queue.map(({ weight }) => weight)).to.deep.equal([3, 1])
  })

  it('are written anew before they run out, and come back to their place when they were forgotten', () => {
    const old = lease([ticket(1, { untilMs: NOW_MS + 85_000 }), ticket(4)])
    expect(queuedOf(waiter(1), old).after?.queue[0]?.untilMs).to.equal(NOW_MS + 150_000)
    expect(queuedOf(waiter(2), old).queued.ticket).to.deep.equal({ place: 2, ahead: 1 })
    expect(queuedOf(waiter(2), old).after?.queue.map(({ place }) => place)).to.deep.equal([1, 2, 4])
    const lapsed = lease([ticket(1, { untilMs: NOW_MS - 1 }), ticket(2, { untilMs: NOW_MS })])
    expect(queuedOf(waiter(0), lapsed).queued.ticket).to.deep.equal({ place: 3, ahead: 1 })
  })

  it('are numbered on, also when nobody is left in the latest places', () => {
    const left = { ...lease(1), places: 4 }
    const { queued: given, after } = queuedOf(waiter(0), left)
    expect([given.ticket, after?.places]).to.deep.equal([{ place: 5, ahead: 1 }, 5])
    // One that comes back to an earlier place does not turn the numbers back, and one to a later place leads them on.
    expect([2, 9].map((place) => queuedOf(waiter(place), left).after?.places)).to.deep.equal([4, 9])
  })

  it('are gone with a grant: its own, and of those ahead the two that were notified and have not come', () => {
    expect(placesAfter(decided(waiter(1), lease(4)))).to.deep.equal([2, 3, 4])
    expect(placesAfter(decided(waiter(2), lease(4)))).to.deep.equal([3, 4])
    expect(placesAfter(decided(waiter(4), lease(5)))).to.deep.equal([3, 5])
    // One that does not wait leaves them all.
    expect(placesAfter(decided(claim('l', 'w'), lease(2)))).to.deep.equal([1, 2])
  })

  it('bar a claim that waits without one, and no claim that does not wait', () => {
    expect(decided(waiter(0), lease(1)).verdict).to.deep.include({ outcome: 'refused', holding: undefined })
    expect(decided(waiter(0), lease(0)).verdict.outcome).to.equal('granted')
    expect(decided(claim('l', 'w'), lease(1)).verdict.outcome).to.equal('granted')
  })

  it('are passed over while the lease is vacant only, and then the next two are notified', () => {
    const op = { kind: 'passOver', lease: 'l', place: 2 } as const
    expectNoChange(op, lease(5, { isHeld: true }))
    const passed = decided(op, lease(5))
    expect([placesAfter(passed), passed.verdict.told]).to.deep.equal([[3, 4, 5], 4])
  })

  it('are given up by their own client, and then those are notified who are first now', () => {
    const leave = (place: number): SingleOp => ({ kind: 'leave', lease: 'l', place })
    const first = decided(leave(1), lease(4))
    expect([placesAfter(first), first.verdict.told]).to.deep.equal([[2, 3, 4], 3])
    // Those behind change nothing for the first two, and of a held lease nobody is notified.
    expect(decided(leave(3), lease(4)).verdict.told).to.equal(undefined)
    expect(decided(leave(1), lease(4, { isHeld: true })).verdict.told).to.equal(undefined)
    expectNoChange(leave(9), lease(4))
    expectNoChange(leave(1), lease([ticket(1, { nonce: `${OTHER}1` })]))
  })

  it('of the first two are notified of a release', () => {
    const told = (waiters: number): number | undefined =>
      decided(release('l', 'a', { fencingToken: 7n }), lease(waiters, { isHeld: true })).verdict.told
    expect([told(0), told(1), told(2), told(5)]).to.deep.equal([undefined, 1, 2, 2])
  })
})
