import { expect } from 'chai'
import { ErrLost, Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { runAlone, type Step } from './worker.ts'

describe('example: a worker loop', () => {
  it('one works at a time; who loses the lease stops, and waits for its turn again', async () => {
    const clock = new TestClock()
    const store = new MemoryStore({ clock })
    const managers = ['a', 'b', 'operator'].map(() => new Manager({ client: memoryClient({ store, clock }), clock }))
    const [a, b, operator] = managers as [Manager, Manager, Manager]
    const [stopA, stopB] = [new AbortController(), new AbortController()]
    let atWork: string[] = []
    const reasons: unknown[] = []
    /** Works until it is asked to stop, as a job does that passes its signal on. */
    const step =
      (worker: string): Step =>
      (signal) => {
        atWork.push(worker)
        return new Promise((_, reject) => {
          signal.addEventListener('abort', () => {
            atWork = atWork.filter((one) => one !== worker)
            reasons.push(signal.reason)
            reject(signal.reason as Error)
          })
        })
      }

    const runs = [track(runAlone(a, 'a', step('a'), stopA.signal)), track(runAlone(b, 'b', step('b'), stopB.signal))]
    await clock.advance({ minutes: 5 })
    expect(atWork).to.deep.equal(['a'])

    await operator.revoke('invoices')
    await clock.advance({ seconds: 30 })
    expect(atWork).to.deep.equal(['b'])
    expect(reasons[0]).to.be.instanceOf(ErrLost)

    stopB.abort()
    await clock.advance({ seconds: 1 })
    expect(atWork).to.deep.equal(['a'])

    stopA.abort()
    await Promise.all(runs.map(({ promise }) => promise))
    expect(atWork).to.deep.equal([])
    await clock.settle()
    expect(await operator.leases()).to.have.property('size', 0)
    for (const manager of managers) await manager.stop()
  })
})
