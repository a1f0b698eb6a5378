/** What a person sees who logs what the Manager returns, throws and emits. */
import { expect } from 'chai'
import { inspect } from 'node:util'
import { ErrClaimDenied, ErrNotHeld, ErrUnknown, LeaseError, type LeaseEvent } from '#src/index.ts'
import { track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

const asJson = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

describe('What is logged', () => {
  it('an Info, a Hold and a token are shown by holder, expiry and fencing token, without internals', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { duration: 30_000, value: 'here' })
    const info = await hold.token.check()
    expect(asJson(info)).to.deep.include({ holder: 'a', fencingToken: '1', value: 'here', pinned: false })
    expect(asJson(info)).to.have.property('expiry', info.expiry.toISO())
    expect(asJson(hold)).to.deep.equal({
      lease: 'db',
      holder: 'a',
      fencingToken: '1',
      held: true,
      trustedUntil: hold.trustedUntil.toISO(),
    })
    expect(asJson(hold.token)).to.deep.equal({ lease: 'db', holder: 'a', fencingToken: '1' })
    expect(inspect(hold.token)).to.equal("Token { lease: 'db', holder: 'a', fencingToken: '1' }")
    for (const shown of [inspect(info), inspect(hold)]) {
      expect(shown).to.match(/^(Info|Hold) \{/)
      expect(shown).to.not.match(/nonce|context|host|timers/i)
    }
    await bench.manager.stop()
  })

  it('an event and an error become JSON with their bigint, message and cause', async () => {
    const bench = new Bench()
    const events: LeaseEvent[] = []
    bench.manager.events.subscribe((event) => void events.push(event))
    await bench.manager.claim('db', 'a', 30_000)
    const denied = await rejection(bench.manager.claim('db', 'b', 30_000), ErrClaimDenied)
    const store = { system: 'memory', namespace: 'default' }
    expect(events.map(asJson)).to.deep.equal([
      { type: 'claimed', ...store, lease: 'db', holder: 'a', fencingToken: '1', renewed: false, tookMs: 0 },
      { type: 'denied', ...store, lease: 'db', holder: 'b', currentHolder: 'a', tookMs: 0 },
    ])
    expect(asJson(denied)).to.deep.equal({
      name: 'ErrClaimDenied',
      code: 'LEASE_CLAIM_DENIED',
      message: denied.message,
      lease: 'db',
      holder: 'b',
      currentHolder: 'a',
      expiry: denied.expiry?.toISO(),
    })
    const cause = Object.assign(new Error('reset by redis://me:secret@cache'), { code: 'ECONNRESET' })
    expect(asJson(new ErrUnknown('could not', { cause }))).to.deep.include({
      message: 'could not',
      cause: { name: 'Error', code: 'ECONNRESET', message: 'reset by redis://…@cache' },
    })
    await bench.manager.stop()
  })

  it('an ErrClaimDenied says for how long the lease is held, or that it is pinned', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 30_000)
    await bench.clock.advance(10_000)
    const denied = await rejection(bench.manager.claim('db', 'b', 30_000), ErrClaimDenied)
    expect(denied.message).to.equal('lease "db" is held by "a" for at most 20.0 s, unless it is extended')
    await bench.manager.pin('db', 'operator')
    const pinned = await rejection(bench.manager.claim('db', 'b', 30_000), ErrClaimDenied)
    expect(pinned.message).to.equal('lease "db" is held by "a" until it is unpinned or released')
    await bench.manager.stop()
  })

  it('the stack of an error that was made in the background has the frame of the caller', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 30_000)
    const calls = {
      claim: () => bench.manager.claim('db', 'b', 30_000),
      hold: () => bench.manager.hold('db', 'b', { duration: 30_000 }),
      'hold that waits': () => bench.manager.hold('db', 'b', { duration: 30_000, wait: 1_000 }),
      'hold of any': () => bench.manager.holdAny(['db'], 'b', { duration: 30_000 }),
      release: () => bench.manager.release('db', 'b'),
      check: () => bench.manager.token('db', 'b').check(),
    }
    for (const [name, call] of Object.entries(calls)) {
      const placeOrder = async (): Promise<unknown> => await call()
      const outcome = track(placeOrder())
      await bench.clock.advance(1_000)
      expect(outcome.error, name).to.be.instanceOf(LeaseError)
      expect((outcome.error as Error).stack, name).to.match(/at async placeOrder .*manager\.inspection\.test/)
    }
    expect((await rejection(bench.manager.token('db', 'b').check(), ErrNotHeld)).stack).to.match(/inspection\.test/)
    await bench.manager.stop()
  })

  it('a waiter emits one denied event, however often it claims', async () => {
    const bench = new Bench()
    const other = bench.other()
    const denied: string[] = []
    bench.manager.events.subscribe((event) => void (event.type === 'denied' && denied.push(event.holder)))
    await other.manager.claim('db', 'a', 30_000)
    const [long, short] = ['b', 'c'].map((holder) =>
      track(bench.manager.hold('db', holder, { duration: 30_000, wait: holder === 'b' ? true : 50_000 })),
    )
    for (let round = 0; round < 5; round++) {
      await bench.clock.advance(20_000)
      await other.manager.claim('db', 'a', 30_000)
    }
    expect([long?.state, short?.state]).to.deep.equal(['pending', 'rejected'])
    expect(denied).to.deep.equal(['b', 'c'])
    await bench.manager.stop()
    await other.manager.stop()
  })
})
