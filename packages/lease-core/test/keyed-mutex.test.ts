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

  it('runs a body in its turn, and leaves whatever becomes of it', async () => {
    const mutex = new KeyedMutex()
    void mutex.enter('a')
    const order: string[] = []
    const first = mutex.inTurn('a', async () => {
      order.push('first')
      throw new Error('on purpose')
    })
    const second = mutex.inTurn('a', async () => order.push('second'))
    await settled()
    expect(order).to.deep.equal([])
    mutex.leave('a')
    const outcomes = await Promise.allSettled([first, second])
    expect([order, outcomes.map(({ status }) => status)]).to.deep.equal([
      ['first', 'second'],
      ['rejected', 'fulfilled'],
    ])
    expect(mutex.enter('a')).to.equal(undefined)
  })

  it('keeps the locks that are taken when it forgets those that are free', async () => {
    const mutex = new KeyedMutex()
    const inside: string[] = []
    void mutex.enter('taken')
    void enter(mutex, 'awaited', inside, 'first')
    void enter(mutex, 'awaited', inside, 'second')
    for (let index = 0; index < 5_000; index++) {
      void mutex.enter(`lease-${index}`)
      mutex.leave(`lease-${index}`)
    }
    const turn = mutex.enter('taken')
    expect(turn).to.be.instanceOf(Promise)
    void enter(mutex, 'awaited', inside, 'third')
    for (const lease of ['taken', 'awaited', 'awaited']) mutex.leave(lease)
    await turn
    await settled()
    expect(inside).to.deep.equal(['first', 'second', 'third'])
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
