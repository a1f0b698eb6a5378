import { expect } from 'chai'
import { Duration } from 'luxon'
import type { LeaseChange } from '#src/client.ts'
import { sleep } from '#src/clock.ts'
import { ErrInvalid } from '#src/errors.ts'
import { infoOf, ScriptedClient, TestClock, track } from '#src/testing/index.ts'

async function thrown(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}

describe('ScriptedClient: does what the script says', () => {
  const clock = new TestClock()
  const held = infoOf({ holder: 'a', expiry: clock.in(30_000), fencingToken: 7n })
  const request = { holder: 'a', duration: 30_000 }

  it('answers the expected calls in order, and changes what it shows with each answer', async () => {
    const client = new ScriptedClient([
      { call: 'claimLease', args: ['db', request], leases: { db: held } },
      { call: 'extendLease', args: ['db'], throws: new ErrInvalid('gone'), leases: { db: undefined, other: held } },
      { call: 'pinned', returns: new Map([['db', ['e']]]) },
    ])
    const view = client.leases()
    await client.claimLease('db', request)
    expect([...view]).to.deep.equal([['db', held]])
    expect(await thrown(client.extendLease('db', request))).to.be.instanceOf(ErrInvalid)
    expect([...view.keys()]).to.deep.equal(['other'])
    expect([...(await client.pinned())]).to.deep.equal([['db', ['e']]])
    client.verify()
    expect(client.calls.map(({ call }) => call)).to.deep.equal(['claimLease', 'extendLease', 'pinned'])
  })

  it('rejects what is unexpected, and remembers it even if the rejection is swallowed', async () => {
    const client = new ScriptedClient([{ call: 'releaseLease', args: ['db', 'a'] }])
    expect(await thrown(client.releaseLease('db', 'b')))
      .to.be.an('error')
      .with.property('message', "unexpected releaseLease('db', 'b'); expected was releaseLease('db', 'a')")
    expect(() => client.verify()).to.throw(/unexpected releaseLease\('db', 'b'\)[^]*missing releaseLease\('db', 'a'\)/)
    await client.releaseLease('db', 'a')
    expect(() => client.verify()).to.throw(/unexpected/)
    expect(await thrown(client.refresh()))
      .to.have.property('message')
      .that.includes('expected was no further call')
  })

  it('tells what is missing', async () => {
    const client = new ScriptedClient().expect({ call: 'expireLease', times: 3 })
    await client.expireLease('x')
    expect(() => client.verify()).to.throw(/missing expireLease\(…\) × 2/)
  })

  it('compares durations by their length, objects by the keys given, refreshed leases in any order', async () => {
    const client = new ScriptedClient([
      { call: 'claimLease', args: ['db', { duration: { seconds: 30 } }] },
      { call: 'extendLease', args: ['db', { holder: 'a', value: undefined }] },
      { call: 'refresh', args: [['x', 'y']] },
      { call: 'refresh', args: [] },
    ])
    await client.claimLease('db', { holder: 'a', duration: Duration.fromMillis(30_000), value: 'v' })
    expect(await thrown(client.extendLease('db', { holder: 'a', duration: 1, value: 'v' }))).to.be.an('error')
    await client.extendLease('db', request)
    expect(await thrown(client.refresh(['x']))).to.be.an('error')
    await client.refresh(new Set(['y', 'x']))
    expect(await thrown(client.refresh(['x', 'y']))).to.be.an('error')
    await client.refresh()
  })

  it('insists on the order of the script, or not', async () => {
    const steps = [
      { call: 'expireLease', args: ['x'] },
      { call: 'expireLease', args: ['y'] },
    ] as const
    expect(await thrown(new ScriptedClient(steps).expireLease('y'))).to.be.an('error')
    const client = new ScriptedClient(steps, { inOrder: false })
    for (const lease of ['y', 'x']) await client.expireLease(lease)
    client.verify()
  })

  it('steps that may come any number of times come at any time, and need not come', async () => {
    const client = new ScriptedClient([
      { call: 'refresh', times: Number.POSITIVE_INFINITY },
      { call: 'expireLease', times: 2 },
      { call: 'pinned', times: Number.POSITIVE_INFINITY },
    ])
    for (let round = 0; round < 2; round++) {
      await client.refresh(['x'])
      await client.expireLease('x')
    }
    await client.refresh()
    client.verify()
  })

  it('an answer can wait for something of the test, and shows the new state only then', async () => {
    const client = new ScriptedClient([
      { call: 'refresh', after: sleep(clock, 100), leases: { db: held } },
      { call: 'refresh', after: Promise.reject(new Error('broken')) },
    ])
    const reading = track(client.refresh(['db']))
    await clock.advance(99)
    expect([reading.state, client.inFlight, client.leases().size]).to.deep.equal(['pending', 1, 0])
    await clock.advance(1)
    expect([reading.state, client.inFlight, client.leases().size]).to.deep.equal(['fulfilled', 0, 1])
    expect(await thrown(client.refresh())).to.have.property('message', 'broken')
  })

  it('a call that hangs ends only by its signal, and leaves no listener on it', async () => {
    const hangs = { call: 'claimLease', hangs: true } as const
    const client = new ScriptedClient([hangs, hangs, { call: 'claimLease', after: Promise.resolve() }])
    const abort = new AbortController()
    let listeners = 0
    const { signal } = abort
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)]
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners++
      add(...args)
    }
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners--
      remove(...args)
    }
    const first = track(client.claimLease('db', request))
    const second = track(client.claimLease('db', request, { signal }))
    await client.claimLease('db', request, { signal })
    expect([client.inFlight, listeners]).to.deep.equal([2, 1])
    abort.abort(new Error('enough'))
    await clock.settle()
    expect([first.state, second.state, listeners]).to.deep.equal(['pending', 'rejected', 0])
    expect(second.error).to.have.property('message', 'enough')
  })

  it('a step can do something just before its answer, such as a hint', async () => {
    const client = new ScriptedClient([
      { call: 'expireLease', does: (client) => client.emit({ kind: 'vacated', lease: 'db' }) },
    ])
    const seen: LeaseChange[] = []
    const listener = (change: LeaseChange): void => void seen.push(change)
    const stops = [client.subscribe(listener), client.subscribe(listener)]
    expect(client.subscribers).to.equal(2)
    stops[0]?.()
    await client.expireLease('db')
    expect(seen).to.deep.equal([{ kind: 'vacated', lease: 'db' }])
    stops[1]?.()
    expect(client.subscribers).to.equal(0)
  })

  it('shows what it is asked to show, and remembers that it was closed', async () => {
    const client = new ScriptedClient([], { leases: { db: held } })
    expect(client.leases().get('db')).to.equal(held)
    client.show({ db: undefined, x: held })
    expect([...client.leases().keys()]).to.deep.equal(['x'])
    expect(client.closed).to.equal(false)
    await client.close()
    expect(client.closed).to.equal(true)
  })
})

describe('ScriptedClient: the methods that not every client has', () => {
  const clock = new TestClock()
  const held = infoOf({ holder: 'a', expiry: clock.in(30_000) })

  it('renewLease calls back what the script says, once, and not before it has returned', async () => {
    const lost = new ErrInvalid('gone')
    const client = new ScriptedClient([
      { call: 'renewLease', args: ['db', { fencingToken: 1n, duration: 500 }], leases: { db: held } },
      { call: 'renewLease', throws: lost },
    ])
    const heard: unknown[] = []
    const renewal = {
      lease: 'db',
      holder: 'a',
      fencingToken: 1n,
      durationMs: 500,
      granted: () => heard.push('granted'),
      failed: (error: unknown) => heard.push(error),
    }
    client.renewLease?.(renewal)
    expect(heard).to.deep.equal([])
    await clock.settle()
    client.renewLease?.(renewal)
    await clock.settle()
    expect(heard).to.deep.equal(['granted', lost])
    client.verify()
  })

  it('are missing where the test says so', () => {
    const client = new ScriptedClient([], { lacks: ['renewLease', 'refreshOver'] })
    expect([client.renewLease, client.refreshOver]).to.deep.equal([undefined, undefined])
  })
})

describe('infoOf: an Info with what a test does not care for filled in', () => {
  it('has a first fencing token, no value, no pin, and a trapdoor that is locked', async () => {
    const expiry = new TestClock().in(1000)
    const info = infoOf({ holder: 'a', expiry })
    expect(info).to.deep.include({ holder: 'a', expiry, fencingToken: 1n, value: undefined, pinned: false })
    await info.trapdoor(undefined)
    expect(await thrown(info.trapdoor({}))).to.have.property('code', 'LEASE_TRAPDOOR')
    expect(infoOf({ holder: 'a', expiry, pinned: true, value: 'v' })).to.include({ pinned: true, value: 'v' })
  })
})
