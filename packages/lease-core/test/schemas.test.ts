import { expect } from 'chai'
import { z } from 'zod'
import type { ErrNotValid } from '#src/errors.ts'
import { parseHoldOptions } from '#src/options.ts'
import { durationSchema, holderSchema, holdOptionsSchema, leaseNameSchema } from '#src/schemas.ts'

const configuration = z.object({ lease: leaseNameSchema, hold: holdOptionsSchema })

function issuesOf(schema: z.ZodType, value: unknown): string[] {
  const { error } = schema.safeParse(value)
  return (error?.issues ?? []).map(({ path, message }) => `${path.join('.')} ${message}`)
}

describe('Schemas: what a configuration file may say', () => {
  it('what is valid is passed on as it is', () => {
    const text =
      '{ "lease": "invoices", "hold": { "duration": { "seconds": 30 }, "wait": true, "share": { "weight": 2 } } }'
    expect(configuration.parse(JSON.parse(text))).to.deep.equal(JSON.parse(text))
    expect(durationSchema.parse(250)).to.equal(250)
    expect(holderSchema.parse('web-1')).to.equal('web-1')
  })

  it('the issues are the problems of the call, each where it is in the file', () => {
    const hold = { duration: 5, renewEvery: 1, wait: 'no', share: { weight: 3, capacity: 2 }, tll: 3 }
    let problems: string[] = []
    try {
      parseHoldOptions(hold)
    } catch (error) {
      problems = (error as ErrNotValid).problems.map(({ argument, rule }) => `hold.${argument} ${rule}`)
    }
    expect(problems).to.have.length(4)
    expect(issuesOf(configuration, { lease: 'a', hold })).to.deep.equal(problems)
  })

  it('names and durations obey the rules of the calls', () => {
    expect(issuesOf(leaseNameSchema, 'a b')).to.deep.equal([' must not contain white space or control characters'])
    expect(issuesOf(holderSchema, '')).to.deep.equal([' must not be empty'])
    expect(issuesOf(durationSchema, -1)).to.deep.equal([' must be greater than zero'])
    expect(issuesOf(durationSchema, '30s')).to.have.length(1)
    expect(issuesOf(configuration, { lease: 'a', hold: undefined })).to.deep.equal([
      'hold must be an object such as { duration: { seconds: 30 } }',
    ])
  })
})
