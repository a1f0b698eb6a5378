import { expect } from 'chai'
import { type Nemesis, nemesesOf } from 'lease-chaos'
import { opened } from './paper-ground.ts'

describe('the nemeses of a run', () => {
  const named = (name: string, isControl = false): Nemesis => ({ name, isControl, strike: async () => {} })
  const ground = opened(
    [named('none'), named('stall'), named('redis-flushall', true)],
    [{ name: 'wall-workers', why: 'there is no cc' }],
  )
  const names = (chosen: readonly Nemesis[]): readonly string[] => chosen.map(({ name }) => name)

  it('are all that are no controls, without names', () => {
    expect(names(nemesesOf(ground))).to.deep.equal(['none', 'stall'])
  })

  it('are those with the given names, controls as well, in the given order', () => {
    expect(names(nemesesOf(ground, ['redis-flushall', 'none']))).to.deep.equal(['redis-flushall', 'none'])
  })

  it('that the ground does not have are an error that lists what there is', () => {
    expect(() => nemesesOf(ground, ['none', 'pg-terminate'])).to.throw(
      'redis has no nemesis "pg-terminate"; it has none, stall, redis-flushall',
    )
  })

  it('that this machine cannot have are an error that says why', () => {
    expect(() => nemesesOf(ground, ['wall-workers'])).to.throw(
      'redis has no nemesis "wall-workers" here (there is no cc); it has none, stall, redis-flushall',
    )
  })
})
