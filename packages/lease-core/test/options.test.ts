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

  it('relations are checked: renewEvery must be less than duration', () => {
    expect(problemsOf(() => parseHoldOptions({ duration: 1000, renewEvery: 1000 }))).to.deep.equal([
      'renewEvery must be less than duration (1000 ms)',
    ])
    expect(parseHoldOptions({ duration: 1000, renewEvery: 999 }).renewEveryMs).to.equal(999)
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
