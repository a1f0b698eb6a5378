import { expect } from 'chai'
import { LatestMap } from '#src/latest-map.ts'

describe('a LatestMap', () => {
  it('forgets what was set least lately, and never more than there is too much', () => {
    const map = new LatestMap<number>(3)
    for (const [step, name] of ['a', 'b', 'c', 'a', 'd', 'e', 'a'].entries()) map.set(name, step)
    expect([...map]).to.deep.equal([
      ['d', 4],
      ['e', 5],
      ['a', 6],
    ])
  })

  it('keeps the order when keys are deleted, come back, and all are cleared', () => {
    const map = new LatestMap<number>(3)
    const keep = (...names: readonly string[]): void => names.forEach((name) => void map.set(name, 0))
    keep('a', 'b', 'c')
    map.delete('b')
    keep('d', 'a')
    expect([...map.keys()]).to.deep.equal(['c', 'd', 'a'])
    keep('e')
    expect([...map.keys()]).to.deep.equal(['d', 'a', 'e'])
    map.clear()
    keep('f', 'g', 'h', 'i')
    expect([...map.keys()]).to.deep.equal(['g', 'h', 'i'])
  })

  it('agrees with a list for any keys that are set and deleted', () => {
    const map = new LatestMap<number>(50)
    let list: string[] = []
    let seed = 1
    for (let step = 0; step < 20_000; step++) {
      seed = (seed * 48_271) % 2_147_483_647
      const name = String(seed % 120)
      list = list.filter((one) => one !== name)
      if (seed % 5 === 0) map.delete(name)
      else {
        map.set(name, step)
        list = [...list, name].slice(-50)
      }
    }
    expect([...map.keys()]).to.deep.equal(list)
  })
})
