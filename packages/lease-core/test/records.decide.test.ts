/** What each operation makes of a record: which term it means, and which request is too late. */
import { expect } from 'chai'
import { claim, expire, extend, pin, release, unpin } from 'lease-scenes'
import {
  decide as decideRecord,
  expiryOf,
  isLapsed,
  isOver,
  nextToken,
  type DecisionContext,
  type SingleOp,
} from '#src/records/decide.ts'
import { ABSENT, type LeaseRecord, type Term } from '#src/records/record.ts'
import type { Verdict } from '#src/substrate.ts'

/** What the substrate makes of a decision: what it answers, and what it writes before. */
interface Decision {
  readonly outcome: Verdict['outcome']
  readonly after?: LeaseRecord | 'deleted'
  readonly queued?: Pick<Verdict, 'ticket' | 'told' | 'isFull'>
}

const decide = (op: SingleOp, record: LeaseRecord, context: DecisionContext): Decision => {
  const { verdict, writes } = decideRecord(op, record, context)
  const { outcome, ticket, told, isFull } = verdict
  const said = {
    ...('ticket' in verdict && { ticket }),
    ...('told' in verdict && { told }),
    ...('isFull' in verdict && { isFull }),
  }
  return {
    outcome,
    ...(writes[0] && { after: writes[0].after }),
    ...(Object.keys(said).length > 0 && { queued: said }),
  }
}

const NOW_MS = 1_700_000_000_000
const WEEK_S = 7 * 86_400

const context = (more: Partial<DecisionContext> = {}): DecisionContext => ({
  version: 'v2',
  client: 'client-words',
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

const after = ({ after: state }: Decision): LeaseRecord => {
  if (state === undefined || state === 'deleted') throw new Error('nothing is written')
  return state
}

const outcomeOf = (op: SingleOp, state: LeaseRecord, more: Partial<DecisionContext> = {}): Decision['outcome'] =>
  decide(op, state, context(more)).outcome

describe('what an operation makes of a record', () => {
  it('a release ends the term that it names, and no other', () => {
    const state = standing()
    const released = decide(release('l', 'a', { fencingToken: 7n, nonce: 'n1' }), state, context())
    expect(released.outcome).to.equal('granted')
    expect(after(released)).to.include({ version: 'v2', term: undefined, fencingToken: 7n })
    for (const op of [
      release('l', 'a', { nonce: 'n0' }),
      release('l', 'a', { fencingToken: 6n }),
      release('l', 'a', { fencingToken: 8n }),
      release('l', 'b', { fencingToken: 7n }),
      release('l', 'b', { nonce: 'n1' }),
    ]) {
      expect(decide(op, state, context())).to.deep.equal({ outcome: 'refused' })
    }
    expect(decide(release('l', 'b', { nonce: 'n0' }), { ...state, term: undefined }, context())).to.deep.equal({
      outcome: 'granted',
    })
  })

  it('an extension continues the term that it names, and moves no end back', () => {
    const state = standing({}, { untilMs: NOW_MS + 20_000 })
    const extended = after(decide(extend('l', 'a', 5_000, { fencingToken: 7n }), state, context()))
    expect(extended.term).to.include({ version: 'v2', durationMs: 9_000, untilMs: NOW_MS + 20_000, value: 'old' })
    const longer = after(decide(extend('l', 'a', 30_000, { fencingToken: 7n, value: 'new' }), state, context()))
    expect(longer.term).to.include({ durationMs: 30_000, untilMs: NOW_MS + 30_000, value: 'new' })
    for (const op of [
      extend('l', 'a', 5_000, { fencingToken: 6n }),
      extend('l', 'a', 5_000, { fencingToken: 8n }),
      extend('l', 'b', 5_000, { fencingToken: 7n }),
    ]) {
      expect(decide(op, state, context())).to.deep.equal({ outcome: 'refused' })
    }
    expect(outcomeOf(extend('l', 'a', 5_000, { fencingToken: 7n }), { ...state, term: undefined })).to.equal('refused')
  })

  it('an adoption takes the term from the process that it names, once, and leaves the claim known that opened it', () => {
    const adopt = (from: string, nonce: string): SingleOp =>
      extend('l', 'a', 5_000, { fencingToken: 7n, adoption: { from, nonce } })
    const second = after(decide(adopt('n1', 'n2'), standing(), context()))
    expect([second.term?.nonce, second.nonces]).to.deep.equal(['n2', ['n2', 'n1']])
    expect(outcomeOf(adopt('n1', 'n2'), second)).to.equal('granted') // sent again
    expect(outcomeOf(adopt('n1', 'n3'), second)).to.equal('refused') // another process was first
    const third = after(decide(adopt('n2', 'n3'), second, context()))
    expect([third.term?.nonce, third.nonces]).to.deep.equal(['n3', ['n3', 'n1']])
    const vacant = after(decide(release('l', 'a', { nonce: 'n3' }), third, context()))
    for (const nonce of ['n1', 'n3']) {
      expect(outcomeOf(claim('l', 'a', 5_000, { nonce }), vacant), nonce).to.equal('late')
    }
    expect(outcomeOf(claim('l', 'a', 5_000, { nonce: 'n4' }), vacant)).to.equal('granted')
  })

  it('what was sent before a later request of its client opens, sets and pins nothing', () => {
    const state = standing()
    const late = { isStale: true }
    expect(outcomeOf(claim('l', 'b', 5_000), { ...state, term: undefined }, late)).to.equal('late')
    expect(outcomeOf(claim('l', 'b', 5_000, { lapsed: 'e1' }), state, late)).to.equal('late')
    expect(outcomeOf(extend('l', 'a', 5_000, { fencingToken: 7n, value: 'new' }), state, late)).to.equal('late')
    expect(outcomeOf(pin('l', 'operator'), state, late)).to.equal('late')
    // These say nothing new.
    expect(outcomeOf(extend('l', 'a', 5_000, { fencingToken: 7n, value: 'old' }), state, late)).to.equal('granted')
    expect(outcomeOf(extend('l', 'a', 5_000, { fencingToken: 7n }), state, late)).to.equal('granted')
  })

  it('an unpin removes the pin of its generation only, and vacates what has lapsed with the last pin', () => {
    const state = standing({ pins: new Map([['operator', 'g1']]) })
    expect(decide(unpin('l', 'operator', 'g0'), state, context())).to.deep.equal({ outcome: 'granted' })
    const left = after(decide(unpin('l', 'operator', 'g1'), state, context()))
    expect([left.pins.size, left.term?.holder]).to.deep.equal([0, 'a'])
    const lapsed = { ...unpin('l', 'operator', 'g1'), lapsed: 'e1' }
    expect(after(decide(lapsed, state, context())).term).to.equal(undefined)
    const two = { ...state, pins: new Map([...state.pins, ['other', 'g2']]) }
    expect(after(decide(lapsed, two, context())).term?.holder).to.equal('a')
  })

  it('only the version that was observed to have lapsed is over, and none that is pinned', () => {
    const state = standing()
    expect([isLapsed(state, 'e1'), isLapsed(state, 'e0'), isLapsed(state, undefined)]).to.deep.equal([
      true,
      false,
      false,
    ])
    const pinned = { ...state, pins: new Map([['operator', 'g1']]) }
    expect(isLapsed(pinned, 'e1')).to.equal(false)
    for (const lapsed of ['e0', undefined]) {
      expect(outcomeOf(expire('l', lapsed), state)).to.equal('refused')
      expect(outcomeOf(claim('l', 'b', 5_000, { lapsed }), state)).to.equal('refused')
    }
    for (const op of [expire('l', 'e1'), claim('l', 'b', 5_000, { lapsed: 'e1' })]) {
      expect([outcomeOf(op, state), outcomeOf(op, pinned)]).to.deep.equal(['granted', 'refused'])
    }
  })

  it('by clocks a term is over once the skew has passed its end, and not in that millisecond', () => {
    const state = standing({}, { untilMs: NOW_MS })
    const isOverAt = (nowMs: number, maxSkewMs?: number): boolean => isOver(state, { nowMs, maxSkewMs })
    expect([isOverAt(NOW_MS + 100, 100), isOverAt(NOW_MS + 101, 100)]).to.deep.equal([false, true])
    expect([isOverAt(NOW_MS, 0), isOverAt(NOW_MS + 1, 0), isOverAt(NOW_MS + 1e12)]).to.deep.equal([false, true, false])
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
    const old = { expires: 1 }
    const kept = [
      decide(claim('l', 'a', 5_000), { ...ABSENT, ...old }, context()),
      decide(pin('l', 'operator'), { ...ABSENT, ...old }, context()),
      decide(release('l', 'a', { fencingToken: 7n }), standing({ pins: new Map([['operator', 'g1']]) }), context()),
    ]
    for (const one of kept) expect(after(one).expires).to.equal(undefined)
    expect(after(decide(release('l', 'a', { fencingToken: 7n }), standing(), context())).expires).to.be.above(1)
  })

  it('what is vacant is remembered for a week after its token, or after now', () => {
    const expires = (fencingToken: bigint, moreMs?: number): number | undefined =>
      expiryOf({ ...ABSENT, fencingToken }, context(), moreMs)
    const nowS = NOW_MS / 1000
    expect(expires(0n)).to.equal(nowS + WEEK_S)
    expect(expires(BigInt(NOW_MS + 60_000) * 1000n)).to.equal(nowS + 60 + WEEK_S)
    expect(expires(0n, 1_001)).to.equal(nowS + WEEK_S + 2)
  })
})
