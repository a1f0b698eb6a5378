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

  it('decision 19: ErrInvalid carries no stack trace, and leaves the limit as it was', () => {
    const limit = Error.stackTraceLimit
    expect(new ErrInvalid('no').stack).not.to.match(/\n\s+at /)
    expect(Error.stackTraceLimit).to.equal(limit)
    expect(new ErrUnknown('yes').stack).to.match(/\n\s+at /)
  })

  it('notValid names argument, rule and value of every problem, long values cut', () => {
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    const values = ['x'.repeat(500), 5n, () => 1, circular, { a: 1 }, undefined]
    const error = notValid(values.map((value, index) => ({ argument: `a${index}`, rule: 'must be good', value })))
    expect(error).to.be.instanceOf(ErrNotValid)
    expect(error.problems.length).to.equal(6)
    expect(error.message).to.match(/^a0 must be good \(got "x{78}…\); a1 must be good \(got 5n\); a2 .*a function/)
    expect(error.message).to.include('an object').and.include('{"a":1}').and.include('got undefined')
  })
})
