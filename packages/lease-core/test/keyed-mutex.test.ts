import { expect } from 'chai'
import { KeyedMutex } from '#src/keyed-mutex.ts'
import { collectGarbage } from './garbage.ts'

/** Enters, and notes when. */
function enter(mutex: KeyedMutex, key: string, inside: string[], name: string): Promise<void> | undefined {
  const turn = mutex.enter(key)
  if (turn === undefined) inside.push(name)
  else void turn.then(() => inside.push(name))
  return turn
}

async function settled(): Promise<void> {
  for (let turns = 0; turns < 20; turns++) await Promise.resolve()
}

describe('KeyedMutex: operations on one lease, one after another', () => {
  it('lets one inside at a time, in the order in which they came; keys do not know of each other', async () => {
    const mutex = new KeyedMutex()
    const inside: string[] = []
    for (const name of ['a', 'b', 'c']) void enter(mutex, 'x', inside, name)
    void enter(mutex, 'y', inside, 'd')
    await Promise.resolve()
    expect(inside).to.deep.equal(['a', 'd'])
    expect([mutex.contended('x'), mutex.contended('y')]).to.deep.equal([true, false])
    for (const expected of ['b', 'c']) {
      mutex.leave('x')
      await Promise.resolve()
      expect(inside.at(-1)).to.equal(expected)
    }
    expect(mutex.contended('x')).to.equal(false)
    mutex.leave('x')
    expect(mutex.enter('x'), 'free again').to.equal(undefined)
  })

  it('one that withdraws is passed over, and is not referenced any more', async () => {
    const mutex = new KeyedMutex()
    const inside: string[] = []
    void enter(mutex, 'x', inside, 'a')
    const withdrawn = Array.from({ length: 100 }, () => enter(mutex, 'x', inside, 'withdrawn') as Promise<void>)
    void enter(mutex, 'x', inside, 'b')
    const gone = withdrawn.splice(0, 100).map((turn) => {
      expect(mutex.withdraw('x', turn)).to.equal(true)
      return new WeakRef(turn)
    })
    await collectGarbage()
    expect(gone.filter((ref) => ref.deref() !== undefined).length).to.equal(0)
    mutex.leave('x')
    await Promise.resolve()
    expect(inside).to.deep.equal(['a', 'b'])
    expect(mutex.contended('x')).to.equal(false)
  })

  it('one whose turn has come cannot withdraw: it is inside, and leaves', async () => {
    const mutex = new KeyedMutex()
    void mutex.enter('x')
    const turn = mutex.enter('x') as Promise<void>
    mutex.leave('x')
    expect(mutex.withdraw('x', turn)).to.equal(false)
    mutex.leave('x')
    expect(mutex.enter('x')).to.equal(undefined)
  })

  it('one who wants several holds none of them while another is taken', async () => {
    const mutex = new KeyedMutex()
    void mutex.enter('z')
    const inside: string[] = []
    const all = mutex.inTurns(['z', 'a'], async () => void inside.push('all'))
    await settled()
    expect(mutex.enter('a'), 'free meanwhile').to.equal(undefined)
    mutex.leave('z')
    await settled()
    expect(inside, 'now that one is taken').to.deep.equal([])
    expect(mutex.enter('z'), 'free meanwhile').to.equal(undefined)
    mutex.leave('z')
    mutex.leave('a')
    await all
    expect(inside).to.deep.equal(['all'])
    expect([mutex.enter('a'), mutex.enter('z')], 'both left').to.deep.equal([undefined, undefined])
  })

  it('one who wants several gets them though they are never free together', async () => {
    const mutex = new KeyedMutex()
    const over = new AbortController()
    let most = 0
    /** Inside one or the other at any time, and others behind. */
    const churn = async (key: string): Promise<void> => {
      while (!over.signal.aborted) {
        const turn = mutex.enter(key)
        if (turn !== undefined) await turn
        for (let n = 0; n < 3; n++) await Promise.resolve()
        mutex.leave(key)
      }
    }
    const others = ['a', 'b', 'a', 'b', 'a'].map(churn)
    let busy = 0
    const several = [0, 1, 2].map(() =>
      mutex.inTurns(['b', 'a'], async () => {
        most = Math.max(most, ++busy)
        await settled()
        busy--
      }),
    )
    await Promise.all(several)
    over.abort()
    await Promise.all(others)
    expect(most, 'inside at a time').to.equal(1)
  })

  it('stays small when keys come and go', () => {
    const mutex = new KeyedMutex()
    for (let index = 0; index < 10_000; index++) {
      void mutex.enter(`lease-${index}`)
      mutex.leave(`lease-${index}`)
    }
    expect(mutex.enter('lease-1')).to.equal(undefined)
    expect(mutex.contended('lease-1')).to.equal(false)
  })
})
