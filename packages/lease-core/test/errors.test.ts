import { expect } from 'chai'
import {
  ErrClaimDenied,
  ErrInvalid,
  ErrLost,
  ErrNotHeld,
  ErrNotValid,
  ErrStopped,
  ErrTrapdoor,
  ErrUnknown,
  LeaseError,
  notValid,
} from '#src/errors.ts'

const classes = [
  [ErrClaimDenied, 'ErrClaimDenied', 'LEASE_CLAIM_DENIED'],
  [ErrNotHeld, 'ErrNotHeld', 'LEASE_NOT_HELD'],
  [ErrInvalid, 'ErrInvalid', 'LEASE_INVALID'],
  [ErrNotValid, 'ErrNotValid', 'LEASE_NOT_VALID'],
  [ErrUnknown, 'ErrUnknown', 'LEASE_UNKNOWN'],
  [ErrLost, 'ErrLost', 'LEASE_LOST'],
  [ErrTrapdoor, 'ErrTrapdoor', 'LEASE_TRAPDOOR'],
  [ErrStopped, 'ErrStopped', 'LEASE_STOPPED'],
] as const

describe('Errors: one base, a stable code on each', () => {
  for (const [Err, name, code] of classes) {
    it(`${name} has the code ${code}, its name, and keeps lease, holder, reason and cause`, () => {
      const cause = new Error('below')
      const error = new Err('message', { lease: 'db', holder: 'a', reason: 'taken', cause })
      expect(error).to.be.instanceOf(LeaseError).and.instanceOf(Error)
      expect(error).to.include({ code, name, message: 'message', lease: 'db', holder: 'a', reason: 'taken', cause })
    })
  }

  it('without a cause there is none', () => {
    expect('cause' in new ErrUnknown('x')).to.equal(false)
    expect(new ErrLost('x', { reason: 'expired' }).reason).to.equal('expired')
  })

  it('ErrInvalid carries no stack trace, and leaves the limit as it was', () => {
    const limit = Error.stackTraceLimit
    expect(new ErrInvalid('no').stack).not.to.match(/\n\s+at /)
    expect(Error.stackTraceLimit).to.equal(limit)
    expect(new ErrUnknown('yes').stack).to.match(/\n\s+at /)
  })

  it('notValid names argument, rule and value of every problem', () => {
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    const values = [
      'x'.repeat(500),
      5n,
      () => 1,
      circular,
      { seconds: -1 },
      undefined,
      'a b',
      [1, 2],
      null,
      Symbol('s'),
    ]
    const error = notValid(values.map((value, index) => ({ argument: `a${index}`, rule: 'must be good', value })))
    expect(error).to.be.instanceOf(ErrNotValid)
    expect(error.message.split('; ').map((one) => one.replace(/^a\d must be good /, ''))).to.deep.equal([
      '(got a string of 500 characters)',
      '(got 5n)',
      '(got a function)',
      '(got an object with self)',
      '(got {"seconds":-1})',
      '(got undefined)',
      '(got "a b")',
      '(got an array of 2)',
      '(got null)',
      '(got a symbol)',
    ])
    expect(error.problems.map(({ value }) => value)).to.deep.equal([
      'a string of 500 characters',
      5n,
      'a function',
      'an object with self',
      { seconds: -1 },
      undefined,
      'a b',
      'an array of 2',
      null,
      'a symbol',
    ])
  })
})
