import { expect } from 'chai'
import type { LeaseChange } from '#src/client.ts'
import { ErrNotHeld, ErrNotValid, ErrTrapdoor } from '#src/errors.ts'
import { MemoryGuard, MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import type {
  Call,
  ClaimOp,
  ExpireOp,
  ExtendOp,
  Holding,
  Op,
  PinOp,
  ReleaseOp,
  UnpinOp,
  Verdict,
} from '#src/substrate.ts'
import { TestClock } from '#src/testing/index.ts'

const call: Call = {
  signal: new AbortController().signal,
  timeoutMs: 1000,
  client: 'c',
  epoch: 0,
  sentMs: undefined,
  notAfterMs: undefined,
}

/** Stands for the fencing token of the present term. */
const PRESENT = -7n
let nonces = 0

function claim(holder: string, over: Partial<ClaimOp> = {}): ClaimOp {
  const nonce = `${holder}-1`
  return { kind: 'claim', lease: 'db', holder, durationMs: 1000, nonce, value: undefined, lapsed: undefined, ...over }
}
function extend(holder: string, over: Partial<ExtendOp> = {}): ExtendOp {
  return {
    kind: 'extend',
    lease: 'db',
    holder,
    fencingToken: PRESENT,
    durationMs: 1000,
    value: undefined,
    seen: undefined,
    ...over,
  }
}
function release(holder: string, over: Partial<ReleaseOp> = {}): ReleaseOp {
  return { kind: 'release', lease: 'db', holder, fencingToken: PRESENT, nonce: undefined, ...over }
}
function expire(lapsed?: string): ExpireOp {
  return { kind: 'expire', lease: 'db', lapsed }
}
function pin(entity = 'e', generation = 'g'): PinOp {
  return { kind: 'pin', lease: 'db', entity, generation }
}
function unpin(entity = 'e', generation = 'g'): UnpinOp {
  return { kind: 'unpin', lease: 'db', entity, generation }
}
/** Another claim of the same holder. */
function fresh(holder: string, over: Partial<ClaimOp> = {}): ClaimOp {
  return claim(holder, { nonce: `${holder}-fresh-${nonces++}`, ...over })
}

class Bench {
  readonly clock = new TestClock()
  readonly store: MemoryStore
  readonly substrate: MemorySubstrate

  constructor(serverClock = true) {
    this.store = new MemoryStore({ clock: this.clock, serverClock })
    this.substrate = new MemorySubstrate({ store: this.store })
  }

  async do(op: Op, over: Partial<Call> = {}): Promise<Verdict> {
    const named =
      'fencingToken' in op && op.fencingToken === PRESENT ? { ...op, fencingToken: this.present(op.lease) } : op
    const [verdict] = await this.substrate.apply([named], { ...call, ...over })
    if (verdict === undefined) throw new Error('no verdict')
    return verdict
  }

  present(lease: string): bigint {
    return this.store.namespace('default').read([lease]).get(lease)?.fencingToken ?? -1n
  }

  /** The operation must be granted; the holding after it. */
  async granted(op: Op): Promise<Holding | undefined> {
    const { outcome, holding } = await this.do(op)
    expect(outcome, op.kind).to.equal('granted')
    return holding
  }

  /** The operation must be refused; who holds it instead. */
  async refused(op: Op): Promise<string | undefined> {
    const { outcome, holding } = await this.do(op)
    expect(outcome, op.kind).to.equal('refused')
    return holding?.holder
  }

  async read(lease = 'db'): Promise<Holding | undefined> {
    return (await this.substrate.read([lease], call)).get(lease)
  }
}

describe('MemorySubstrate: claims and extensions', () => {
  it('a claim on a vacant lease opens a term for its whole duration', async () => {
    const bench = new Bench()
    const holding = await bench.granted(claim('a', { value: 'here' }))
    expect(holding).to.deep.equal({
      holder: 'a',
      fencingToken: 1n,
      nonce: 'a-1',
      remainingMs: 1000,
      ageMs: 0,
      value: 'here',
      pinned: false,
      version: undefined,
    })
    await bench.clock.advance(400)
    expect(await bench.read()).to.deep.equal({ ...holding, remainingMs: 600, ageMs: 400 })
  })

  it('a claim on a held lease is refused, and brings the holding along', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    await bench.clock.advance(100)
    const verdict = await bench.do(claim('b'))
    expect(verdict.outcome).to.equal('refused')
    expect(verdict.holding).to.include({ holder: 'a', remainingMs: 900 })
    expect(await bench.refused(claim('a', { nonce: 'a-2' }))).to.equal('a')
  })

  it('a lapsed lease is taken over in one step, with a higher fencing token and without the old value', async () => {
    const bench = new Bench()
    const first = await bench.granted(claim('a', { value: 'mine' }))
    await bench.clock.advance(1001)
    const second = await bench.granted(claim('b'))
    expect(second).to.include({ holder: 'b', value: undefined })
    expect(second?.fencingToken).to.be.greaterThan(Number(first?.fencingToken))
  })

  it('a lease stands at its very expiry, shows time left, and lapses strictly after it', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    await bench.clock.advance(1000)
    expect(await bench.refused(claim('b'))).to.equal('a')
    expect(await bench.refused(expire())).to.equal('a')
    expect((await bench.read())?.remainingMs).to.be.greaterThan(0)
    await bench.clock.advance(0.001)
    expect(await bench.read()).to.equal(undefined)
    await bench.granted(claim('b'))
  })

  it('the same claim again is the same term: its token stays, its end moves on and never back', async () => {
    const bench = new Bench()
    const first = await bench.granted(claim('a'))
    await bench.clock.advance(300)
    const again = await bench.granted(claim('a'))
    expect(again).to.deep.equal({ ...first, ageMs: 300 })
    const shorter = await bench.granted(claim('a', { durationMs: 10 }))
    expect(shorter?.remainingMs).to.equal(1000)
  })

  it('the same claim again after its lapse is late, and opens no second term', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    await bench.clock.advance(1001)
    expect((await bench.do(claim('a'))).outcome).to.equal('late')
    await bench.granted(fresh('a'))
    await bench.granted(release('a'))
    expect(await bench.read()).to.equal(undefined)
  })

  it('an extension moves the end to now + duration, never back, and keeps the token', async () => {
    const bench = new Bench()
    const first = await bench.granted(claim('a'))
    await bench.clock.advance(400)
    expect((await bench.granted(extend('a', { durationMs: 100 })))?.remainingMs).to.equal(600)
    const longer = await bench.granted(extend('a', { durationMs: 5000 }))
    expect(longer).to.include({ remainingMs: 5000, fencingToken: first?.fencingToken })
  })

  it('an extension is refused to another holder, to an earlier term, to a lapsed and to a vacant lease', async () => {
    const bench = new Bench()
    expect(await bench.refused(extend('a'))).to.equal(undefined)
    const first = await bench.granted(claim('a'))
    expect(await bench.refused(extend('b'))).to.equal('a')
    await bench.granted(release('a'))
    const second = await bench.granted(claim('a', { nonce: 'a-2' }))
    expect(await bench.refused(extend('a', { fencingToken: first?.fencingToken ?? 0n }))).to.equal('a')
    await bench.granted(extend('a', { fencingToken: second?.fencingToken ?? 0n }))
    await bench.clock.advance(1001)
    expect(await bench.refused(extend('a'))).to.equal(undefined)
  })

  it('a value travels with the term; an extension without one keeps it', async () => {
    const bench = new Bench()
    await bench.granted(claim('a', { value: 'one' }))
    expect((await bench.granted(extend('a')))?.value).to.equal('one')
    await bench.granted(extend('a', { value: '' }))
    expect((await bench.read())?.value).to.equal('')
  })

  it('fencing tokens of a lease rise with every term, over release, expiry, revival and other leases', async () => {
    const bench = new Bench()
    const tokens: bigint[] = []
    for (let term = 0; term < 8; term++) {
      const holding = await bench.granted(claim('a', { nonce: `n${term}` }))
      tokens.push(holding?.fencingToken ?? 0n)
      await bench.granted(claim('a', { nonce: `n${term}`, lease: 'other' }))
      if (term % 3 === 0) await bench.granted(release('a'))
      else await bench.clock.advance(1001)
      if (term % 3 === 1) await bench.granted(expire())
      await bench.do(release('a', { lease: 'other' }))
    }
    for (let term = 1; term < tokens.length; term++)
      expect(Number(tokens[term])).to.be.greaterThan(Number(tokens[term - 1]))
  })
})

describe('MemorySubstrate: release and expiry', () => {
  it('release vacates for the holder, by token or nonce or both', async () => {
    const bench = new Bench()
    for (const by of ['token', 'nonce', 'both']) {
      const { fencingToken, nonce } = (await bench.granted(fresh('a'))) as Holding
      const named = {
        fencingToken: by === 'nonce' ? undefined : fencingToken,
        nonce: by === 'token' ? undefined : nonce,
      }
      expect(await bench.granted(release('a', named))).to.equal(undefined)
      expect(await bench.read(), by).to.equal(undefined)
    }
  })

  it('release is refused to another holder, another term and another claim', async () => {
    const bench = new Bench()
    const holding = await bench.granted(claim('a'))
    expect(await bench.refused(release('b'))).to.equal('a')
    expect(await bench.refused(release('a', { fencingToken: (holding?.fencingToken ?? 0n) - 1n }))).to.equal('a')
    expect(await bench.refused(release('a', { nonce: 'a-2' }))).to.equal('a')
    expect(await bench.read()).to.include({ holder: 'a' })
  })

  it('release of a vacant or lapsed lease is granted to anyone', async () => {
    const bench = new Bench()
    await bench.granted(release('b'))
    await bench.granted(claim('a'))
    await bench.clock.advance(1001)
    await bench.granted(release('b'))
  })

  it('expire vacates what has lapsed, grants what is vacant, and refuses what is held', async () => {
    const bench = new Bench()
    await bench.granted(expire())
    await bench.granted(claim('a'))
    expect(await bench.refused(expire())).to.equal('a')
    await bench.clock.advance(1001)
    expect(await bench.granted(expire())).to.equal(undefined)
  })
})

describe('MemorySubstrate: pins', () => {
  it('a pinned lease does not lapse: it can be extended, and not be taken or expired', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    await bench.granted(pin())
    await bench.clock.advance(5000)
    expect(await bench.read()).to.include({ holder: 'a', pinned: true, remainingMs: -4000 })
    expect(await bench.refused(claim('b'))).to.equal('a')
    expect(await bench.refused(expire())).to.equal('a')
    expect(await bench.granted(extend('a'))).to.include({ remainingMs: 1000, pinned: true })
  })

  it('past its expiry it lapses with the last pin', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    for (const entity of ['x', 'y']) await bench.granted(pin(entity))
    await bench.clock.advance(1001)
    expect(await bench.granted(unpin('x'))).to.include({ holder: 'a', pinned: true })
    expect(await bench.granted(unpin('y'))).to.equal(undefined)
    await bench.granted(claim('b'))
  })

  it('before its expiry the last unpin leaves it held', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    await bench.granted(pin())
    expect(await bench.granted(unpin())).to.include({ holder: 'a', pinned: false, remainingMs: 1000 })
  })

  it('a pin on a vacant lease waits for its next holder', async () => {
    const bench = new Bench()
    expect(await bench.granted(pin())).to.equal(undefined)
    expect(await bench.granted(claim('a'))).to.include({ pinned: true })
    await bench.clock.advance(1001)
    expect(await bench.refused(claim('b'))).to.equal('a')
  })

  it('a pin that comes after the lapse does not bring the old holder back', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    await bench.clock.advance(1001)
    expect(await bench.granted(pin())).to.equal(undefined)
    expect(await bench.read()).to.equal(undefined)
    expect(await bench.granted(claim('b'))).to.include({ holder: 'b', pinned: true })
  })

  it('a pin outlives release', async () => {
    const bench = new Bench()
    await bench.granted(pin())
    await bench.granted(claim('a'))
    await bench.granted(release('a'))
    expect(await bench.granted(claim('b'))).to.include({ pinned: true })
  })

  it('pinned() shows every pinned lease with its pins, held or not', async () => {
    const bench = new Bench()
    for (const entity of ['y', 'x', 'y']) await bench.granted(pin(entity))
    await bench.granted({ ...pin(), lease: 'vacant' })
    await bench.granted({ ...unpin(), lease: 'never' })
    const pinned = [...(await bench.substrate.pinned(call))]
    expect(pinned.map(([lease, pins]) => [lease, [...pins.keys()].toSorted()])).to.deep.equal([
      ['db', ['x', 'y']],
      ['vacant', ['e']],
    ])
    expect([...(await bench.substrate.pinned(call, ['vacant', 'free'])).keys()]).to.deep.equal(['vacant'])
    for (const entity of ['x', 'y']) await bench.granted(unpin(entity))
    expect([...(await bench.substrate.pinned(call)).keys()]).to.deep.equal(['vacant'])
  })
})

describe('MemorySubstrate: what comes late does nothing', () => {
  const startMs = new TestClock().monotonic()
  const sentAt = (ms: number): Partial<Call> => ({ sentMs: startMs + ms, notAfterMs: startMs + ms + 5_000 })

  it('a request is not executed after its deadline, whatever it is', async () => {
    const bench = new Bench()
    const { fencingToken } = (await bench.granted(claim('a', { durationMs: 60_000 }))) as Holding
    await bench.granted(pin('e', 'g'))
    await bench.clock.advance(5_001)
    const ops = [
      fresh('b', { lease: 'free' }),
      release('a', { fencingToken }),
      extend('a'),
      pin('f'),
      unpin('e', 'g'),
      expire(),
    ]
    for (const op of ops) expect((await bench.do(op, sentAt(0))).outcome, op.kind).to.equal('late')
    expect(await bench.read()).to.include({ fencingToken, pinned: true, ageMs: 5_001 })
    expect(await bench.read('free')).to.equal(undefined)
  })

  it('a claim that was sent before the latest term was opened opens none, not even after that one is over', async () => {
    const bench = new Bench()
    await bench.clock.advance(100)
    for (const holder of ['a', 'b']) {
      await bench.granted(fresh(holder))
      await bench.granted(release(holder))
      await bench.clock.advance(100)
    }
    expect((await bench.do(fresh('a'), sentAt(199))).outcome).to.equal('late')
    expect((await bench.do(fresh('a', { place: 0 }), sentAt(199))).outcome).to.equal('late')
    await bench.granted(fresh('a', { lease: 'other' }))
    expect((await bench.do(fresh('a'), sentAt(200))).outcome).to.equal('granted')
  })

  it('nor does it after a term that has lapsed', async () => {
    const bench = new Bench()
    await bench.clock.advance(100)
    await bench.granted(claim('b'))
    await bench.clock.advance(2_000)
    expect((await bench.do(fresh('a'), sentAt(99))).outcome).to.equal('late')
    expect((await bench.do(fresh('a'), sentAt(100))).outcome).to.equal('granted')
  })

  it('no nonce opens two terms', async () => {
    for (const serverClock of [true, false]) {
      const bench = new Bench(serverClock)
      await bench.granted(claim('a'))
      await bench.granted(release('a'))
      expect((await bench.do(claim('a'))).outcome).to.equal('late')
      await bench.granted(fresh('a'))
    }
  })

  it('no claim defines a counted lease twice', async () => {
    const store = new MemoryStore({ clock: new TestClock() })
    const leases = store.namespace('default')
    const share = (holder: string): ClaimOp =>
      claim(holder, { lease: `db#${holder}`, share: { weight: 1, capacity: 1, passing: 0, lapsed: new Map() } })
    const end = (from: string, generation: string): Op => ({
      kind: 'define',
      lease: 'db#',
      capacity: undefined,
      from,
      generation,
    })
    const outcomes = [share('alice'), end('alice-1', 'g1'), share('bob'), end('bob-1', 'g2'), share('bob')]
    expect(outcomes.map((op) => leases.apply(op).outcome)).to.deep.equal([
      'granted',
      'granted',
      'refused',
      'granted',
      'late',
    ])
    expect(leases.counted('db#').capacity).to.equal(undefined)
  })

  it('an adoption takes the place of the nonce that it names, and a release by the old one does nothing any more', async () => {
    const bench = new Bench()
    const { fencingToken } = (await bench.granted(claim('a'))) as Holding
    const adopt = (from: string, nonce: string): ExtendOp => extend('a', { fencingToken, adoption: { from, nonce } })
    expect(await bench.granted(adopt('a-1', 'a-2'))).to.include({ fencingToken, nonce: 'a-2' })
    expect(await bench.granted(adopt('a-1', 'a-2'))).to.include({ fencingToken, nonce: 'a-2' })
    expect(await bench.refused(release('a', { fencingToken, nonce: 'a-1' }))).to.equal('a')
    await bench.granted(adopt('a-2', 'a-3'))
    expect(await bench.refused(adopt('a-1', 'a-2'))).to.equal('a')
    await bench.granted(extend('a'))
    expect(await bench.read()).to.include({ nonce: 'a-3' })
    await bench.granted(release('a', { fencingToken, nonce: 'a-3' }))
    expect((await bench.do(claim('a'))).outcome).to.equal('late') // by the nonce that opened the term
  })

  it('an unpin removes the pin of its generation only, and no pin comes that was sent before the latest unpin', async () => {
    const bench = new Bench()
    await bench.granted(pin('e', 'g1'))
    await bench.clock.advance(100)
    await bench.granted(unpin('e', 'g1'))
    await bench.granted(pin('e', 'g2'))
    await bench.granted(unpin('e', 'g1'))
    expect((await bench.do(pin('e', 'g1'), sentAt(99))).outcome).to.equal('late')
    expect((await bench.do(pin('e', 'g2'), sentAt(99))).outcome).to.equal('granted') // it stands already, as on the other stores
    expect([...((await bench.substrate.pinned(call)).get('db') ?? [])]).to.deep.equal([['e', 'g2']])
    await bench.granted(unpin('e', 'none'))
    expect((await bench.do(pin('f', 'g3'), sentAt(100))).outcome).to.equal('granted')
  })

  it('without a clock, nothing opens a term or sets a pin in an epoch below the highest of its client', async () => {
    const bench = new Bench(false)
    await bench.do(release('a', { lease: 'any', fencingToken: 1n }), { epoch: 2 })
    expect((await bench.do(fresh('a'), { epoch: 1 })).outcome).to.equal('late')
    expect((await bench.do(pin(), { epoch: 1 })).outcome).to.equal('late')
    expect((await bench.do(fresh('a'), { epoch: 1, client: 'd' })).outcome).to.equal('granted')
    expect((await bench.do(fresh('a', { lease: 'free' }), { epoch: 2 })).outcome).to.equal('granted')
  })

  it('a memory of the future says nothing: a store whose clock was set back goes on', async () => {
    const clock = new TestClock()
    let behindMs = 0
    const setBack = {
      now: () => clock.now(),
      setTimer: () => ({ cancel() {} }),
      monotonic: () => clock.monotonic() - behindMs,
    }
    const substrate = new MemorySubstrate({ store: new MemoryStore({ clock: setBack }) })
    await clock.advance(3_600_000)
    const apply = async (op: Op): Promise<Verdict | undefined> =>
      (await substrate.apply([op], { ...call, sentMs: setBack.monotonic() }))[0]
    const verdict = await apply(fresh('a', { durationMs: 10 }))
    await apply(release('a', { fencingToken: verdict?.holding?.fencingToken }))
    behindMs = 3_600_000
    expect((await apply(fresh('b')))?.outcome).to.equal('granted')
  })

  it('what it remembers of vacant leases goes after a few seconds', async () => {
    const bench = new Bench()
    for (let round = 0; round < 20; round++) {
      for (let index = 0; index < 100; index++) {
        await bench.granted(fresh('a', { lease: `l${round}-${index}` }))
        await bench.granted(release('a', { lease: `l${round}-${index}` }))
      }
      await bench.clock.advance(5_000)
    }
    expect(bench.store.remembered).to.be.below(500)
  })
})

describe('MemorySubstrate: reading, sharing, closing', () => {
  it('one apply answers each operation in order', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    const verdicts = await bench.substrate.apply([claim('b'), claim('b', { lease: 'free' }), expire()], call)
    expect(verdicts.map(({ outcome, holding }) => [outcome, holding?.holder])).to.deep.equal([
      ['refused', 'a'],
      ['granted', 'b'],
      ['refused', 'a'],
    ])
  })

  it('a read shows what was asked for and stands, or all that stands', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    await bench.granted(claim('a', { lease: 'long', durationMs: 9000 }))
    expect([...(await bench.substrate.read(['db', 'free'], call)).keys()]).to.deep.equal(['db'])
    expect([...(await bench.substrate.read(undefined, call)).keys()]).to.deep.equal(['db', 'long'])
    await bench.clock.advance(1001)
    expect([...(await bench.substrate.read(undefined, call)).keys()]).to.deep.equal(['long'])
  })

  it('substrates on one store contend; namespaces and stores do not', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    const outcome = async (substrate: MemorySubstrate): Promise<string | undefined> =>
      (await substrate.apply([claim('b')], call))[0]?.outcome
    expect(await outcome(new MemorySubstrate({ store: bench.store }))).to.equal('refused')
    expect(await outcome(new MemorySubstrate({ store: bench.store, namespace: 'other' }))).to.equal('granted')
    expect(await outcome(new MemorySubstrate())).to.equal('granted')
  })

  it('a call that core has given up is not executed; nothing is after close', async () => {
    const bench = new Bench()
    const gone = { ...call, signal: AbortSignal.abort(new Error('gone')) }
    let error: unknown
    await bench.substrate.apply([claim('a')], gone).catch((thrown: unknown) => (error = thrown))
    expect(error).to.have.property('message', 'gone')
    expect(await bench.read()).to.equal(undefined)
    await bench.substrate.close()
    await bench.substrate.apply([claim('a')], call).catch((thrown: unknown) => (error = thrown))
    expect(error).to.have.property('message').that.includes('closed')
    expect((await new MemorySubstrate({ store: bench.store }).read(['db'], call)).size).to.equal(0)
  })

  it('names that lapse and never come back leave no trace, those that stand stay', async () => {
    const bench = new Bench()
    await bench.granted(claim('a', { lease: 'stays', durationMs: 1e9 }))
    await bench.granted(pin())
    await bench.granted(claim('a'))
    for (let round = 0; round < 20; round++) {
      const ops = Array.from({ length: 500 }, (_, index) => claim('a', { lease: `l${round}-${index}` }))
      await bench.substrate.apply(ops, call)
      await bench.clock.advance(11_000) // a late copy of their claims cannot come any more
    }
    const kept = await bench.substrate.read(undefined, call)
    expect([...kept.keys()]).to.have.members(['stays', 'db'])
    expect(bench.store.size).to.be.below(1600)
  })

  it('a hundred thousand leases are an ordinary day', async () => {
    const bench = new Bench()
    for (let first = 0; first < 100_000; first += 1000) {
      const batch = Array.from({ length: 1000 }, (_, index) => claim('a', { lease: `l${first + index}` }))
      const verdicts = await bench.substrate.apply(batch, call)
      expect(verdicts.every(({ outcome }) => outcome === 'granted')).to.equal(true)
    }
    expect((await bench.substrate.read(undefined, call)).size).to.equal(100_000)
    expect(await bench.refused(claim('b', { lease: 'l77777' }))).to.equal('a')
    expect(await bench.granted(extend('a', { lease: 'l77777' }))).to.include({ holder: 'a' })
  })

  it('bad options are all named at once', () => {
    const store = { store: {}, namespace: 'a b', colour: 'red' } as unknown as { store: MemoryStore }
    expect(() => new MemorySubstrate(store)).to.throw(
      ErrNotValid,
      /^colour is not an option.*store must be a MemoryStore.*namespace must not/s,
    )
    const options = { clock: {}, serverClock: 'no' } as unknown as { serverClock: boolean }
    expect(() => new MemoryStore(options)).to.throw(
      ErrNotValid,
      /clock must be a Clock.*serverClock must be true or false/s,
    )
  })
})

describe('MemorySubstrate: hints', () => {
  async function hintsOf(bench: Bench, ...ops: Op[]): Promise<LeaseChange[]> {
    const seen: LeaseChange[] = []
    const stop = bench.substrate.watch((change) => seen.push(change))
    await bench.clock.settle()
    expect(seen.splice(0)).to.deep.equal([{ kind: 'resync' }])
    for (const op of ops) await bench.granted(op)
    await bench.clock.settle()
    stop()
    return seen
  }
  const changed: LeaseChange = { kind: 'changed', lease: 'db' }
  const vacated: LeaseChange = { kind: 'vacated', lease: 'db' }

  it('a watch begins with a resync; then announced terms and values, and vacancies, in order', async () => {
    const bench = new Bench()
    const news = { announce: true }
    const ops = [claim('a', news), extend('a', { value: 'v', ...news }), pin(), unpin(), release('a')]
    expect(await hintsOf(bench, ...ops)).to.deep.equal([changed, changed, vacated])
  })

  it('what nobody announces is not notified, nor what changes nothing: a plain extension, a pin, the release of a vacant lease', async () => {
    const bench = new Bench()
    await bench.granted(pin())
    const idle = [claim('a'), claim('a'), extend('a'), pin(), unpin('nobody')]
    expect(await hintsOf(bench, ...idle)).to.deep.equal([])
    expect(await hintsOf(bench, release('a'), release('a'), expire())).to.deep.equal([vacated])
  })

  it('the unpin that lets a lease lapse, and the expiry of a lapsed one, are vacancies', async () => {
    const bench = new Bench()
    await bench.granted(claim('a'))
    await bench.granted(pin())
    await bench.clock.advance(1001)
    expect(await hintsOf(bench, unpin())).to.deep.equal([vacated])
    await bench.granted(fresh('a'))
    await bench.clock.advance(1001)
    expect(await hintsOf(bench, expire())).to.deep.equal([vacated])
  })

  it('a hint never comes from within the operation, nor after its watch has stopped', async () => {
    const bench = new Bench()
    const seen: LeaseChange[] = []
    const stop = bench.substrate.watch((change) => seen.push(change))
    expect(seen).to.deep.equal([])
    await bench.clock.settle()
    void bench.substrate.apply([claim('a')], call)
    expect(seen).to.have.length(1)
    stop()
    await bench.clock.settle()
    expect(seen).to.have.length(1)
  })

  it('closing stops the watches of this substrate, not those of others on the store', async () => {
    const bench = new Bench()
    const other = new MemorySubstrate({ store: bench.store })
    const seen: string[] = []
    other.watch(() => seen.push('closed'))
    bench.substrate.watch(() => seen.push('open'))
    await other.close()
    await bench.granted(claim('a', { announce: true }))
    await bench.clock.settle()
    expect(seen).to.deep.equal(['open', 'open'])
  })

  it('a listener that throws becomes a warning, and harms neither the others nor its own next hint', async () => {
    const bench = new Bench()
    const warnings: Error[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    let calls = 0
    const seen: LeaseChange[] = []
    bench.substrate.watch(() => {
      calls++
      throw new Error('bad listener')
    })
    bench.substrate.watch((change) => seen.push(change))
    await bench.granted(claim('a', { announce: true }))
    await bench.clock.settle()
    process.off('warning', onWarning)
    expect([calls, seen.length]).to.deep.equal([2, 2])
    expect(warnings.map(({ message }) => message)).to.deep.equal(['bad listener', 'bad listener'])
  })
})

describe('MemorySubstrate: trapdoor', () => {
  const outcome = (check: Promise<void>): Promise<unknown> =>
    check.then(
      () => 'passed',
      (error: unknown) => error,
    )

  it('runs the body of the guard while exactly this holding stands, and keeps its result', async () => {
    const bench = new Bench()
    const holding = await bench.granted(claim('a'))
    const guard = new MemoryGuard(() => 6 * 7)
    expect(guard.result).to.equal(undefined)
    await bench.substrate.trapdoor('db', 'a', holding?.fencingToken ?? 0n)(guard)
    expect(guard.result).to.equal(42)
  })

  it('does not run it for another holder, an earlier term, a lapsed or a vacant lease: ErrNotHeld', async () => {
    const bench = new Bench()
    let ran = 0
    const guard = new MemoryGuard(() => ran++)
    const token = (await bench.granted(claim('a')))?.fencingToken ?? 0n
    const trapdoor = bench.substrate.trapdoor('db', 'a', token)
    expect(await outcome(bench.substrate.trapdoor('db', 'b', token)(guard))).to.be.instanceOf(ErrNotHeld)
    await bench.clock.advance(1001)
    expect(await outcome(trapdoor(guard))).to.be.instanceOf(ErrNotHeld)
    await bench.granted(claim('a', { nonce: 'a-2' }))
    expect(await outcome(trapdoor(guard))).to.be.instanceOf(ErrNotHeld)
    await bench.granted(release('a'))
    expect(await outcome(trapdoor(guard)))
      .to.be.instanceOf(ErrNotHeld)
      .and.include({ lease: 'db', holder: 'a' })
    expect(ran).to.equal(0)
  })

  it('no key passes; any other key is an ErrTrapdoor, held or not', async () => {
    const bench = new Bench()
    const trapdoor = bench.substrate.trapdoor('db', 'a', 1n)
    expect(await outcome(trapdoor(undefined))).to.equal('passed')
    for (const key of [null, 0, '', {}, () => 1]) expect(await outcome(trapdoor(key))).to.be.instanceOf(ErrTrapdoor)
  })

  it('what the body throws reaches the caller as it is', async () => {
    const bench = new Bench()
    const token = (await bench.granted(claim('a')))?.fencingToken ?? 0n
    const boom = new Error('boom')
    const guard = new MemoryGuard((): number => {
      throw boom
    })
    expect(await outcome(bench.substrate.trapdoor('db', 'a', token)(guard))).to.equal(boom)
  })

  it('an async body is refused before anything runs: the lease may be lost at its first await', () => {
    const body = (async () => 1) as unknown as () => number
    expect(() => new MemoryGuard(body)).to.throw(ErrNotValid, /body must be a synchronous function/)
  })
})

describe('MemorySubstrate without a server clock', () => {
  it('nothing lapses by itself, and the duration last granted is shown instead of the time left', async () => {
    const bench = new Bench(false)
    await bench.granted(claim('a'))
    await bench.clock.advance(1e6)
    expect(await bench.read()).to.include({ holder: 'a', remainingMs: 1000 })
    expect(await bench.refused(claim('b'))).to.equal('a')
    expect(await bench.refused(expire())).to.equal('a')
    await bench.granted(extend('a'))
  })

  it('every claim and extension has its own version; pins and reads leave it', async () => {
    const bench = new Bench(false)
    const seen: (string | undefined)[] = []
    for (const op of [claim('a'), claim('a'), extend('a'), release('a')]) seen.push((await bench.granted(op))?.version)
    seen.push((await bench.granted(fresh('a')))?.version)
    expect(seen.splice(3, 1)).to.deep.equal([undefined])
    expect(new Set(seen).size).to.equal(4)
    expect((await bench.granted(pin()))?.version).to.equal(seen[3])
    expect((await bench.read())?.version).to.equal(seen[3])
  })

  it('only the version that was observed to lapse is taken over or expired', async () => {
    const bench = new Bench(false)
    const observed = (await bench.granted(claim('a')))?.version
    const renewed = (await bench.granted(extend('a')))?.version
    expect(await bench.refused(claim('b', { lapsed: observed }))).to.equal('a')
    expect(await bench.refused(expire(observed))).to.equal('a')
    const taken = await bench.granted(claim('b', { lapsed: renewed }))
    expect(taken).to.include({ holder: 'b' })
    await bench.granted(expire(taken?.version))
    expect(await bench.read()).to.equal(undefined)
  })

  it('a pinned lease is not taken over, whatever was observed', async () => {
    const bench = new Bench(false)
    const observed = (await bench.granted(claim('a')))?.version
    await bench.granted(pin())
    expect(await bench.refused(claim('b', { lapsed: observed }))).to.equal('a')
    expect(await bench.refused(expire(observed))).to.equal('a')
    await bench.granted(unpin())
    await bench.granted(expire(observed))
  })

  it('a shorter extension does not shorten what observers have to wait, a longer one lengthens it', async () => {
    const bench = new Bench(false)
    await bench.granted(claim('a'))
    expect((await bench.granted(extend('a', { durationMs: 10 })))?.remainingMs).to.equal(1000)
    expect((await bench.granted(extend('a', { durationMs: 3000 })))?.remainingMs).to.equal(3000)
  })
})

it('the end of a definition that is asked for once more, as its answer was lost, is granted as before', async () => {
  const clock = new TestClock()
  const substrate = new MemorySubstrate({ store: new MemoryStore({ clock }) })
  for (const [capacity, from, generation] of [
    [2, undefined, 'first'],
    [undefined, 'first', 'second'],
    [undefined, undefined, 'third'],
  ] as const) {
    const sentMs = await substrate.time?.(call)
    await clock.advance(5)
    for (let copy = 0; copy < 2; copy++) {
      const op = { kind: 'define', lease: 'n#', capacity, from, generation } as const
      const [verdict] = await substrate.apply([op], { ...call, sentMs })
      expect(verdict?.outcome).to.equal('granted')
      await clock.advance(5)
    }
  }
})
