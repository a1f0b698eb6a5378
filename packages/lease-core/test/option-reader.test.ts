import { expect } from 'chai'
import { ErrNotValid } from '#src/errors.ts'
import { brokenRenewalRule, OptionReader } from '#src/option-reader.ts'
import { SHORTEST_RENEWED_MS, tooLateMs, trustWindowMs } from '#src/skew.ts'

/** What is thrown at the end, as `argument rule`. */
function problemsOf(options: OptionReader): string[] {
  try {
    options.finish()
  } catch (error) {
    expect(error).to.be.instanceOf(ErrNotValid)
    return (error as ErrNotValid).problems.map(({ argument, rule }) => `${argument} ${rule}`)
  }
  return []
}

describe('OptionReader', () => {
  it('reads each option once, however often it is checked', () => {
    let reads = 0
    const given = {
      get duration() {
        reads++
        return reads === 1 ? 5_000 : 'changed'
      },
    }
    const options = new OptionReader(given, ['duration'])
    expect([options.duration('duration'), options.renewedDuration('duration')]).to.deep.equal([5_000, 5_000])
    expect(options.read.duration).to.equal(5_000)
    expect(problemsOf(options)).to.deep.equal([])
    expect(reads).to.equal(1)
  })

  it('reports unknown options first, then each broken rule in the order of the checks', () => {
    const given = { again: 1, wait: -1, n: 1.5, typo: 1 }
    const options = new OptionReader(given, ['again', 'wait', 'n'], { arguments: { name: '', work: undefined } })
    options.name('name')
    options.must('work', false, 'must be a function')
    expect(options.boolean('again', true)).to.equal(true)
    expect(options.wait()).to.deep.equal(Number.NaN)
    expect(options.count('n', 8)).to.equal(undefined)
    expect(problemsOf(options)).to.deep.equal([
      'typo is not an option',
      'name must not be empty',
      'work must be a function',
      'again must be true or false',
      'wait must be greater than zero',
      'n must be a whole number from 1 to 8',
    ])
  })

  it('takes a wait that is no duration at all for something else than a wrong duration', () => {
    for (const wait of ['no', null, {}]) {
      const options = new OptionReader({ wait }, ['wait'])
      options.wait()
      expect(problemsOf(options), JSON.stringify(wait)).to.have.length(1)
    }
    const text = new OptionReader({ wait: 'no' }, ['wait'])
    text.wait()
    expect(problemsOf(text)).to.deep.equal(['wait must be true, false or a duration'])
  })

  it('says nothing of single options where there are none, and still checks the arguments', () => {
    for (const given of [undefined, 'a text', new Proxy({}, { ownKeys: () => expect.fail('trap') })]) {
      const options = new OptionReader(given as object, ['duration', 'client'], { arguments: { name: 'a b' } })
      options.name('name')
      options.duration('duration')
      options.object('client', 'a Client', ['claim'])
      expect(problemsOf(options)).to.deep.equal([
        `options must be ${typeof given === 'object' ? 'readable: to read it throws' : 'an object'}`,
        'name must not contain white space or control characters',
      ])
    }
  })

  it('names an option inside of an option by both names', () => {
    const options = new OptionReader({ flags: { on: 'yes', off: true, of: 1 } }, ['flags'])
    const flags = new OptionReader(options.read.flags, ['on', 'off'], { root: 'flags' })
    flags.boolean('on')
    flags.boolean('off')
    options.add(flags)
    expect(problemsOf(options)).to.deep.equal(['flags.of is not an option', 'flags.on must be true or false'])
  })

  it('shows only the length of a text where a password may be passed', () => {
    const options = new OptionReader({ redis: 'hunter2', prefix: 'hunter2' }, ['redis', 'prefix'], {
      secret: ['redis'],
    })
    options.object('redis', 'a connection', ['eval'])
    options.boolean('prefix')
    expect(() => options.finish()).to.throw(
      ErrNotValid,
      /^redis must be a connection \(got "a string of 7 characters"\); prefix must be true or false \(got "hunter2"\)$/,
    )
  })

  it('names as unreadable what throws when a rule looks at it', () => {
    const trap = new Proxy({}, { get: () => expect.fail('trap'), getPrototypeOf: () => expect.fail('trap') })
    const options = new OptionReader({ clock: trap, duration: trap }, ['clock', 'duration'])
    options.clock()
    expect(options.duration('duration')).to.deep.equal(Number.NaN)
    expect(problemsOf(options)).to.deep.equal([
      'clock must be readable: to read it throws',
      'duration must be readable: to read it throws',
    ])
  })

  it('coerces nothing: what breaks a rule counts as not given, and a duration that does is NaN', () => {
    const given = { flag: 'yes', off: 0, none: 0, many: 9, part: 1.5, text: '3', value: 7, duration: 'soon', name: 'n' }
    const options = new OptionReader(given, Object.keys(given))
    expect([
      options.boolean('flag', true),
      options.boolean('off', false),
      options.boolean('missing', true),
    ]).to.deep.equal([true, false, true])
    expect(['none', 'many', 'part', 'text'].map((count) => options.count(count, 8))).to.deep.equal(
      Array(4).fill(undefined),
    )
    expect(options.value()).to.equal(undefined)
    expect(options.duration('duration')).to.deep.equal(Number.NaN)
    expect(options.name('name')).to.equal('n')
    expect(problemsOf(options).map((problem) => problem.split(' ')[0])).to.deep.equal([
      'flag',
      'off',
      'none',
      'many',
      'part',
      'text',
      'value',
      'duration',
    ])
    const sound = new OptionReader({ one: 1, most: 8, part: 0.5 }, ['one', 'most', 'part'])
    expect([sound.count('one', 8), sound.count('most', 8), sound.duration('part')]).to.deep.equal([1, 8, 1])
    expect(problemsOf(sound)).to.deep.equal([])
  })

  it('refuses what is unknown also without a value, and begins with what was wrong with other arguments', () => {
    const others = [{ argument: 'work', rule: 'must be a function', value: 1 }]
    const options = new OptionReader({ typo: undefined }, ['duration'], { others })
    expect(problemsOf(options)).to.deep.equal(['work must be a function', 'typo is not an option'])
    expect(problemsOf(new OptionReader({}, ['duration'], { others }))).to.deep.equal(['work must be a function'])
    const made = new Map()
    expect(problemsOf(new OptionReader(made, ['duration'])).join()).to.match(/^options must be an object such as/)
    const half = new OptionReader({ clock: { now: () => 0 } }, ['clock'])
    half.clock()
    expect(problemsOf(half)).to.deep.equal(['clock must be a Clock'])
  })

  it('draws the line of a lease, of one that renews itself, and of its renewals, to the millisecond', () => {
    const problems = (durationMs: number, check: (options: OptionReader) => void): number => {
      const options = new OptionReader({ duration: durationMs }, ['duration'])
      check(options)
      return problemsOf(options).length
    }
    const ofLease = (durationMs: number): number => problems(durationMs, (options) => options.leaseDuration('duration'))
    let shortestMs = 1
    while (trustWindowMs(shortestMs) <= 0) shortestMs++
    expect([ofLease(shortestMs - 1), ofLease(shortestMs)]).to.deep.equal([1, 0])
    const ofRenewed = (durationMs: number): number =>
      problems(durationMs, (options) => options.renewedDuration('duration'))
    expect([ofRenewed(SHORTEST_RENEWED_MS - 1), ofRenewed(SHORTEST_RENEWED_MS)]).to.deep.equal([1, 0])
    for (const durationMs of [1_000, 1_337, 30_000]) {
      const rule = brokenRenewalRule(durationMs, 'duration', durationMs) ?? expect.fail('it was allowed')
      const mostMs = Number(/at most (\d+) ms/.exec(rule)?.[1])
      expect(brokenRenewalRule(mostMs, 'duration', durationMs)).to.equal(undefined)
      expect(brokenRenewalRule(mostMs + 1, 'duration', durationMs)).to.equal(rule)
      expect(brokenRenewalRule(tooLateMs(durationMs), 'duration', durationMs)).to.equal(rule)
    }
  })
})
