/** What each operation makes of a record: which term it names, and which request is too late. */
import { expect } from 'chai'
import {
  decide,
  expiryOf,
  isLapsed,
  isOver,
  nextToken,
  type DecisionContext,
  type SingleOp,
} from '#src/records/decide.ts'
import { ABSENT, type LeaseRecord, type Term } from '#src/records/record.ts'
import { claim, CLIENT, expire, extend, pin, release, unpin } from './records.setting.ts'

const NOW_MS = 1_700_000_000_000
const WEEK_S = 7 * 86_400

const context = (more: Partial<DecisionContext> = {}): DecisionContext => ({
  version: 'v2',
  client: CLIENT,
  isStale: false,
  nowMs: NOW_MS,
  maxSkewMs: undefined,
  ...more,
})

/** A term of `a` with the fencing token 7, which the claim with the nonce `n1` has opened. */
const standing = (more: Partial<LeaseRecord> = {}, term: Partial<Term> = {}): LeaseRecord => ({
  ...ABSENT,
  version: 'v1',
  fencingToken: 7n,
  term: {
    holder: 'a',
    version: 'e1',
    durationMs: 9_000,
    untilMs: NOW_MS + 9_000,
    nonce: 'n1',
    value: 'old',
    weight: undefined,
    ...term,
  },
  nonces: ['n1'],
  ...more,
})

/** What the operation writes, on condition that the record is the one that was found. */
const after = (op: SingleOp, record: LeaseRecord): LeaseRecord => {
  const [write, ...others] = decide(op, record, context()).writes
  if (write === undefined || write.after === 'deleted') throw new Error('no record is written')
  expect([write.lease, write.was, others.length]).to.deep.equal([op.lease, record.version, 0])
  return write.after
}

const outcomeOf = (op: SingleOp, record: LeaseRecord, more: Partial<DecisionContext> = {}): string =>
  decide(op, record, context(more)).verdict.outcome

/** An operation that changes nothing here: it writes nothing, and the verdict shows what stands. */
const expectNoChange = (op: SingleOp, record: LeaseRecord, outcome: 'granted' | 'refused'): void => {
  const { verdict, writes, after: left } = decide(op, record, context())
  expect([verdict.outcome, verdict.holding?.holder]).to.deep.equal([outcome, record.term?.holder])
  expect(writes).to.deep.equal([])
  expect(left).to.equal(record)
}

describe('what an operation makes of a record', () => {
  it('a release ends the term that it names, and no other', () => {
    const record = standing()
    const own = release('l', 'a', { fencingToken: 7n, nonce: 'n1' })
    expect(decide(own, record, context()).verdict).to.deep.include({ outcome: 'granted', holding: undefined })
    expect(after(own, record)).to.include({ version: 'v2', term: undefined, fencingToken: 7n })
    for (const op of [
      release('l', 'a', { nonce: 'n0' }),
      release('l', 'a', { fencingToken: 6n }),
      release('l', 'a', { fencingToken: 8n }),
      release('l', 'b', { fencingToken: 7n }),
      release('l', 'b', { nonce: 'n1' }),
    ]) {
      expectNoChange(op, record, 'refused')
    }
    expectNoChange(release('l', 'b', { nonce: 'n0' }), { ...record, term: undefined }, 'granted')
  })

  it('an extension continues the term that it names, and moves no end back', () => {
    const record = standing({}, { untilMs: NOW_MS + 20_000 })
    const extended = after(extend('l', 'a', { durationMs: 5_000, fencingToken: 7n }), record)
    expect(extended.term).to.include({ version: 'v2', durationMs: 9_000, untilMs: NOW_MS + 20_000, value: 'old' })
    const op = extend('l', 'a', { durationMs: 30_000, fencingToken: 7n, value: 'new' })
    const longer = after(op, record)
    expect(longer.term).to.include({ durationMs: 30_000, untilMs: NOW_MS + 30_000, value: 'new' })
    for (const other of [
      extend('l', 'a', { fencingToken: 6n }),
      extend('l', 'a', { fencingToken: 8n }),
      extend('l', 'b', { fencingToken: 7n }),
    ]) {
      expectNoChange(other, record, 'refused')
    }
    expectNoChange(extend('l', 'a', { fencingToken: 7n }), { ...record, term: undefined }, 'refused')
  })

  it('an adoption takes the term from the process that it names, once, and leaves the claim known that opened it', () => {
    const adopt = (from: string, nonce: string): SingleOp =>
      extend('l', 'a', { fencingToken: 7n, adoption: { from, nonce } })
    const second = after(adopt('n1', 'n2'), standing())
    expect([second.term?.nonce, second.nonces]).to.deep.equal(['n2', ['n2', 'n1']])
    expect(outcomeOf(adopt('n1', 'n2'), second)).to.equal('granted') // sent again
    expect(outcomeOf(adopt('n1', 'n3'), second)).to.equal('refused') // another process was first
    const third = after(adopt('n2', 'n3'), second)
    expect([third.term?.nonce, third.nonces]).to.deep.equal(['n3', ['n3', 'n1']])
    const vacant = after(release('l', 'a', { nonce: 'n3' }), third)
    for (const nonce of ['n1', 'n3']) {
      expect(outcomeOf(claim('l', 'a', { nonce }), vacant), nonce).to.equal('late')
    }
    expect(outcomeOf(claim('l', 'a', { nonce: 'n4' }), vacant)).to.equal('granted')
  })

  it('a claim that is sent again continues its own term, in another version, and opens no other', () => {
    const op = claim('l', 'a', { nonce: 'n1', durationMs: 5_000 })
    const { holding } = decide(op, standing(), context()).verdict
    expect(holding).to.include({ fencingToken: 7n, version: 'v2', remainingMs: 9_000 })
    expect(after(op, standing()).nonces).to.deep.equal(['n1'])
  })

  it('what was sent before a later request of its client opens, sets and pins nothing', () => {
    const record = standing()
    const late = { isStale: true }
    for (const [op, found] of [
      [claim('l', 'b'), { ...record, term: undefined }],
      [claim('l', 'b', { lapsed: 'e1' }), record],
      [extend('l', 'a', { fencingToken: 7n, value: 'new' }), record],
      [pin('l', 'operator', 'g1'), record],
    ] as const) {
      const { verdict, writes } = decide(op, found, context(late))
      expect([verdict.outcome, writes.length], op.kind).to.deep.equal(['late', 0])
    }
    // These say nothing new.
    expect(outcomeOf(extend('l', 'a', { fencingToken: 7n, value: 'old' }), record, late)).to.equal('granted')
    expect(outcomeOf(extend('l', 'a', { fencingToken: 7n }), record, late)).to.equal('granted')
  })

  it('an unpin removes the pin of its generation only, and vacates what has lapsed with the last pin', () => {
    const record = standing({ pins: new Map([['operator', 'g1']]) })
    expectNoChange(unpin('l', 'operator', 'g0'), record, 'granted')
    const left = after(unpin('l', 'operator', 'g1'), record)
    expect([left.pins.size, left.term?.holder]).to.deep.equal([0, 'a'])
    const lapsed = unpin('l', 'operator', 'g1', 'e1')
    expect(after(lapsed, record).term).to.equal(undefined)
    const two = { ...record, pins: new Map([...record.pins, ['other', 'g2']]) }
    expect(after(lapsed, two).term?.holder).to.equal('a')
  })

  it('only the version that was observed to have lapsed is over, and none that is pinned', () => {
    const record = standing()
    const areLapsed = ['e1', 'e0', undefined].map((version) => isLapsed(record, version))
    expect(areLapsed).to.deep.equal([true, false, false])
    const pinned = { ...record, pins: new Map([['operator', 'g1']]) }
    expect(isLapsed(pinned, 'e1')).to.equal(false)
    for (const lapsed of ['e0', undefined]) {
      expect(outcomeOf(expire('l', lapsed), record)).to.equal('refused')
      expect(outcomeOf(claim('l', 'b', { lapsed }), record)).to.equal('refused')
    }
    for (const op of [expire('l', 'e1'), claim('l', 'b', { lapsed: 'e1' })]) {
      expect([outcomeOf(op, record), outcomeOf(op, pinned)]).to.deep.equal(['granted', 'refused'])
    }
  })

  it('by clocks a term is over once the skew has passed its end, and not in that millisecond', () => {
    const record = standing({}, { untilMs: NOW_MS })
    const isOverAt = (nowMs: number, maxSkewMs?: number): boolean => isOver(record, { nowMs, maxSkewMs })
    expect([isOverAt(NOW_MS + 100, 100), isOverAt(NOW_MS + 101, 100)]).to.deep.equal([false, true])
    expect([isOverAt(NOW_MS, 0), isOverAt(NOW_MS + 1, 0), isOverAt(NOW_MS + 1e12)]).to.deep.equal([false, true, false])
    const pinned = { ...record, pins: new Map([['operator', 'g1']]) }
    expect(isOver(pinned, { nowMs: NOW_MS + 1e12, maxSkewMs: 0 })).to.equal(false)
  })

  it('the token of a term is the time in microseconds, or one more than the latest', () => {
    const micros = BigInt(NOW_MS) * 1000n
    const next = (fencingToken: bigint): bigint => nextToken({ ...ABSENT, fencingToken }, context())
    expect([next(0n), next(micros - 1n), next(micros), next(micros + 5n)]).to.deep.equal([
      micros,
      micros,
      micros + 1n,
      micros + 6n,
    ])
  })

  it('what is held or pinned is remembered for good', () => {
    const old = { ...ABSENT, expires: 1 }
    const operators = new Map([['operator', 'g1']])
    const ofHolder = release('l', 'a', { fencingToken: 7n })
    for (const kept of [
      after(claim('l', 'a'), old),
      after(pin('l', 'operator', 'g1'), old),
      after(ofHolder, standing({ pins: operators })),
    ]) {
      expect(kept.expires).to.equal(undefined)
    }
    expect(after(ofHolder, standing()).expires).to.be.above(1)
  })

  it('what is vacant is remembered for a week after its token, or after now', () => {
    const expires = (fencingToken: bigint, moreMs?: number): number =>
      expiryOf({ ...ABSENT, fencingToken }, context(), moreMs)
    const nowS = NOW_MS / 1000
    expect(expires(0n)).to.equal(nowS + WEEK_S)
    expect(expires(BigInt(NOW_MS + 60_000) * 1000n)).to.equal(nowS + 60 + WEEK_S)
    expect(expires(0n, 1_001)).to.equal(nowS + WEEK_S + 2)
  })

  it('the record of a share goes with it, unless a pin has been on it: then a copy of the pin finds another version', () => {
    const own = (more: Partial<LeaseRecord> = {}): LeaseRecord => standing({ ...more }, { weight: 1 })
    const ofHolder = { ...release('l#a', 'a', { fencingToken: 7n }) }
    expect(decide(ofHolder, own(), context()).writes).to.deep.equal([{ lease: 'l#a', was: 'v1', after: 'deleted' }])
    const pinned = decide(pin('l#a', 'operator', 'g1'), own(), context()).after
    const unpinned = decide(unpin('l#a', 'operator', 'g1'), pinned, context()).after
    const [write] = decide(ofHolder, unpinned, context()).writes
    expect(write?.after).to.include({ version: 'v2', term: undefined })
  })
})
