import { expect } from 'chai'
import { ErrNotValid } from '#src/errors.ts'
import { LeaseEvents } from '#src/events.ts'
import { Manager } from '#src/manager.ts'
import { MemorySubstrate } from '#src/memory/index.ts'
import { parseHoldOptions, parseManagerConfig, parseSubstrateClientOptions } from '#src/options.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { ScriptedClient, TestClock } from '#src/testing/index.ts'

function problemsOf(parse: () => unknown): string[] {
  try {
    parse()
  } catch (error) {
    expect(error).to.be.instanceOf(ErrNotValid)
    return (error as ErrNotValid).problems.map(({ argument, rule }) => `${argument} ${rule}`)
  }
  return []
}

function fail(): never {
  throw new Error('it throws')
}

describe('Options: parsed once at the edge, all problems together', () => {
  it('the defaults: maxSleep one minute, requestTimeout five seconds, no wait, renewal at a third', () => {
    expect(parseManagerConfig({ client: new ScriptedClient() }).maxSleepMs).to.equal(60_000)
    expect(parseSubstrateClientOptions({ substrate: new MemorySubstrate() }).requestTimeoutMs).to.equal(5000)
    const hold = parseHoldOptions({ duration: { seconds: 30 } })
    expect(hold).to.include({ durationMs: 30_000, waitMs: 0, renewEveryMs: 10_000, value: undefined })
  })

  it('wait: false, true and a duration', () => {
    const wait = (value: unknown): number => parseHoldOptions({ duration: 1000, wait: value }).waitMs
    expect([wait(false), wait(true), wait(5), wait({ minutes: 1 })]).to.deep.equal([0, Infinity, 5, 60_000])
  })

  it('relations are checked: a renewal must come within the trust window of the duration', () => {
    for (const renewEvery of [1000, 994, { seconds: 30 }]) {
      expect(problemsOf(() => parseHoldOptions({ duration: 1000, renewEvery }))).to.deep.equal([
        'renewEvery must be at most 993 ms, so that a renewal is sent within the trust window of duration (1000 ms)',
      ])
    }
    expect(parseHoldOptions({ duration: 1000, renewEvery: 993 }).renewEveryMs).to.equal(993)
    expect(problemsOf(() => parseHoldOptions({ duration: 5, renewEvery: 1 }))).to.deep.equal([
      'renewEvery cannot be met: duration (5 ms) is over before a renewal is sent',
    ])
  })

  it('a duration that is over before a third of it is renewed needs renewEvery: false', () => {
    for (const duration of [2, 4, 7]) {
      expect(problemsOf(() => parseHoldOptions({ duration }))).to.deep.equal([
        'duration must be at least 8 ms, or renewEvery false: a shorter lease is over before it is renewed',
      ])
      expect(parseHoldOptions({ duration, renewEvery: false }).durationMs).to.equal(duration)
    }
    expect(parseHoldOptions({ duration: 8 }).durationMs).to.equal(8)
    expect(problemsOf(() => parseHoldOptions({ duration: 1, renewEvery: false })).length).to.equal(1)
  })

  it('each option is read once: one that throws is named as unreadable, one that changes counts as it was', () => {
    const thrower = (key: string): object =>
      Object.defineProperty({ duration: 1000 }, key, { get: fail, enumerable: true })
    const { proxy: revoked, revoke } = Proxy.revocable({}, {})
    revoke()
    const unreadable = [
      ...['duration', 'wait', 'signal', 'renewEvery', 'nap'].map(thrower),
      Object.create(thrower('signal')) as object,
      new Proxy({}, { ownKeys: fail }),
      new Proxy({ duration: 1000 }, { get: fail }),
      revoked,
    ]
    for (const options of unreadable) {
      expect(problemsOf(() => parseHoldOptions(options))).to.deep.equal(['options must be readable: to read it throws'])
    }
    let reads = 0
    const changing = {
      duration: 1000,
      get renewEvery() {
        return reads++ === 0 ? 500 : 5_000
      },
    }
    expect(parseHoldOptions(changing).renewEveryMs).to.equal(500)
  })

  it('nothing is coerced and nothing is ignored: every problem is named', () => {
    const problems = problemsOf(() =>
      parseHoldOptions({ duration: '30', wait: 'no', signal: {}, value: 5, renewEvery: -1, tll: 3 }),
    )
    for (const argument of ['duration', 'wait', 'signal', 'value', 'renewEvery', 'tll']) {
      expect(
        problems.some((problem) => problem.startsWith(`${argument} `)),
        argument,
      ).to.equal(true)
    }
  })

  it('the constructors refuse what is no client, clock, events or substrate', () => {
    expect(() => new Manager(undefined as never)).to.throw(ErrNotValid)
    const config = { client: {}, clock: 5, events: {}, maxSleep: 0, extra: 1 } as never
    expect(problemsOf(() => new Manager(config)).length).to.equal(5)
    expect(problemsOf(() => new SubstrateClient({ substrate: {}, requestTimeout: Infinity } as never)).length).to.equal(
      2,
    )
    const events = new LeaseEvents()
    expect(new Manager({ client: new ScriptedClient(), clock: new TestClock(), events }).events).to.equal(events)
  })
})
