import { expect } from 'chai'
import { parseDuration, showDuration } from '#src/durations.ts'
import type { CommandEnd } from '#src/exit-codes.ts'

describe('durations of the command line', () => {
  for (const [text, ms] of [
    ['30s', 30_000],
    ['1h30m', 5_400_000],
    ['1.5s', 1500],
    ['250ms', 250],
    ['1d', 86_400_000],
  ] as const) {
    it(`${text} is ${ms} ms`, () => expect(parseDuration(text, '--wait')).to.equal(ms))
  }

  it('a bare number is refused, and the message says what to write', () => {
    const error = failureOf('30')
    expect(error.message).to.equal('--wait must have a unit (got 30)')
    expect(error.hints).to.deep.equal(['write 30s for seconds, or 30m for minutes'])
    expect(error.exitCode).to.equal(64)
  })

  for (const text of ['', 's', '30 s', '-5s', '5x', '1h30', '0s', '0']) {
    it(`${JSON.stringify(text)} is refused`, () => expect(failureOf(text).exitCode).to.equal(64))
  }

  it('zero is allowed where that is meant', () => {
    expect(parseDuration('0', '--at-least', { zero: true })).to.equal(0)
    expect(parseDuration('0s', '--at-least', { zero: true })).to.equal(0)
  })

  for (const [ms, text] of [
    [0, '0s'],
    [999, '<1s'],
    [24_900, '24s'],
    [60_000, '1m'],
    [303_000, '5m3s'],
    [11_520_000, '3h12m'],
    [90_000_000, '1d1h'],
  ] as const) {
    it(`${ms} ms is shown as ${text}`, () => expect(showDuration(ms)).to.equal(text))
  }
})

function failureOf(text: string): CommandEnd {
  try {
    parseDuration(text, '--wait')
  } catch (error) {
    return error as CommandEnd
  }
  throw new Error(`${text} was accepted`)
}
