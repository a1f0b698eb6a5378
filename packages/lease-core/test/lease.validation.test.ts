import { expect } from 'chai'
import { Duration } from 'luxon'
import { ErrNotValid } from '#src/errors.ts'
import { brokenDurationRule, checkNames, checkRequest, MAX_DURATION_MS, validateString } from '#src/lease.ts'

describe('validateString: what may name a lease or a holder', () => {
  for (const name of ['a', 'worker-1', 'a/b:c@d', 'ÄÖÜ-日本', '👩‍🚀', 'x'.repeat(255), 'ä'.repeat(127)]) {
    it(`accepts ${JSON.stringify(name.slice(0, 20))} (${Buffer.byteLength(name)} bytes)`, () => validateString(name))
  }
  const refused = [
    '',
    ' ',
    'a b',
    'a\tb',
    'a\n',
    'a.b',
    'a#b',
    'a$b',
    '\u00a0',
    '\u2028',
    'ä b',
    'ä.b',
    'a\0',
    '\x7f',
    'ä\u0085',
  ]
  for (const name of [...refused, 'x'.repeat(256), 'ä'.repeat(128), 'a\ud800']) {
    it(`rejects ${JSON.stringify(name.slice(0, 20))} (${Buffer.byteLength(name)} bytes)`, () => {
      expect(() => validateString(name, 'lease')).to.throw(ErrNotValid, /^lease must /)
    })
  }
  it('rejects what is not a string', () => {
    for (const value of [undefined, null, 5, {}, ['a']]) {
      expect(() => validateString(value as never)).to.throw(ErrNotValid, 'must be a string')
    }
  })
})

describe('checkRequest: the arguments of a claim', () => {
  it('takes every form of a duration, rounded up to whole milliseconds', () => {
    for (const [duration, ms] of [
      [30_000, 30_000],
      [0.2, 1],
      [{ seconds: 30 }, 30_000],
      [Duration.fromObject({ minutes: 1, seconds: 0.5 }), 60_500],
      [MAX_DURATION_MS, MAX_DURATION_MS],
    ] as const) {
      expect(checkRequest('db', { holder: 'a', duration })).to.equal(ms)
    }
  })

  it('refuses durations that are not greater than zero and finite, or are none', () => {
    for (const bad of [0, -1, Number.NaN, Infinity, -Infinity, MAX_DURATION_MS + 1, '30s', null, undefined, 5n, {}]) {
      expect(brokenDurationRule(bad)).to.match(/^must be /)
    }
    for (const bad of [{ secunds: 1 }, { seconds: 'x' }, Duration.invalid('no')]) {
      expect(brokenDurationRule(bad)).to.match(/^must be /)
    }
  })

  it('says of what is no duration what is one, also where luxon finds none of its units: a Date, a Temporal.Duration', () => {
    class OfTemporal {
      get [Symbol.toStringTag](): string {
        return 'Temporal.Duration'
      }
    }
    for (const none of [{}, new Date(), new OfTemporal()]) {
      expect(brokenDurationRule(none)).to.match(/^must be a luxon Duration, an object such as /)
    }
    expect(brokenDurationRule(new OfTemporal())).to.include("write duration.total('milliseconds')")
    expect(brokenDurationRule({ seconds: 0 })).to.equal('must be greater than zero')
    expect(brokenDurationRule(Duration.fromMillis(0))).to.equal('must be greater than zero')
  })

  it('lists every problem at once, in the order of the arguments, with lease and holder', () => {
    try {
      checkRequest('a b', { holder: '#', duration: 0, value: 'x'.repeat(4097) })
      expect.fail('must throw')
    } catch (error) {
      expect(error).to.be.instanceOf(ErrNotValid).and.include({ lease: 'a b', holder: '#' })
      const { problems } = error as ErrNotValid
      expect(problems.map(({ argument }) => argument)).to.deep.equal(['lease', 'holder', 'duration', 'value'])
    }
  })

  it('a value is at most 4 KiB of well-formed text without NUL', () => {
    const check = (value: string): number => checkRequest('db', { holder: 'a', duration: 1000, value })
    check('')
    check('ä'.repeat(2048))
    for (const bad of ['ä'.repeat(2049), 'a\0b', '\udc00', 7 as never]) expect(() => check(bad)).to.throw(ErrNotValid)
  })

  it('checkNames lists every bad name', () => {
    checkNames({ lease: 'db', entity: 'e' })
    expect(() => checkNames({ lease: '', entity: '$' })).to.throw(ErrNotValid, /lease must .*; entity must /)
  })
})
