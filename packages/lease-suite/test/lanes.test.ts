import { expect } from 'chai'
import { inLanes } from '#src/lanes.ts'

/** Works that end when they are asked to. */
function newWorks(count: number) {
  const ends: (() => void)[] = []
  const works = Array.from({ length: count }, () => () => new Promise<void>((resolve) => ends.push(resolve)))
  return { works, started: () => ends.length, end: (index: number) => ends[index]?.() }
}

/** Until everything that can go on has done so. */
function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 20))
}

const never = (): Promise<number> => new Promise(() => {})

describe('lanes', () => {
  it('so many works run however busy the cores are, and the next begins when one has ended', async () => {
    const { works, started, end } = newWorks(4)
    const all = inLanes({ least: 2, most: 4 }, works, async () => {
      await settled()
      return 0
    })
    await settled()
    expect(started()).to.equal(2)
    await settled()
    expect(started()).to.equal(2)
    for (let index = 0; index < 4; index++) {
      end(index)
      await settled()
      expect(started()).to.equal(Math.min(4, index + 3))
    }
    await all
  })

  it('while the cores idle more are begun, but not more than the most', async () => {
    const { works, started, end } = newWorks(9)
    const all = inLanes({ least: 2, most: 4 }, works, async () => 0.5)
    await settled()
    expect(started()).to.equal(4)
    for (let index = 0; index < 9; index++) {
      end(index)
      await settled()
    }
    await all
  })

  it('one that ends is followed at once, without a look at the cores', async () => {
    const { works, started, end } = newWorks(3)
    const all = inLanes({ least: 2, most: 4 }, works, never)
    await settled()
    end(1)
    await settled()
    expect(started()).to.equal(3)
    end(0)
    end(2)
    await all
  })

  it('a failure is reported at once, and no more are begun', async () => {
    const { works, started } = newWorks(2)
    const failing = (): Promise<void> => Promise.reject(new Error('broken'))
    const error: unknown = await inLanes({ least: 2, most: 2 }, [works[0]!, failing, works[1]!], never).catch(
      (one) => one,
    )
    expect(error).to.be.an('error').with.property('message', 'broken')
    expect(started()).to.equal(1)
  })
})
