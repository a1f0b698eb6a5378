import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { catchUp, jobs, sendDaily, sendWeekly } from './once-per.ts'

describe('example: a report that is sent once', () => {
  let clock: TestClock
  let managers: Manager[]
  let sent: string[]
  const day = (n: number): Date => new Date(Date.UTC(2026, 2, n, 3))
  const send = async (slot: string): Promise<void> => void sent.push(slot)

  beforeEach(() => {
    clock = new TestClock()
    sent = []
    const store = new MemoryStore({ clock })
    managers = [1, 2].map(() => new Manager({ client: memoryClient({ store, clock }), clock }))
  })
  afterEach(() => Promise.all(managers.map((manager) => manager.stop())))

  it('is sent by one process, and the others are reported by whom', async () => {
    const [a, b] = managers.map(jobs) as [ReturnType<typeof jobs>, ReturnType<typeof jobs>]
    expect(await sendDaily(a, day(1), send)).to.equal('sent')
    expect(await sendDaily(b, day(1), send)).to.match(/^taken by .+-\d+-[0-9a-f]+$/)
    expect(await sendDaily(b, day(2), send)).to.equal('sent')
    expect(await sendDaily(a, day(1), send)).to.match(/^passed by /)
    expect(sent).to.deep.equal([day(1).toISOString(), day(2).toISOString()])
  })

  it('is sent by another process when the one that sends it dies', async () => {
    const [a, b] = managers.map(jobs) as [ReturnType<typeof jobs>, ReturnType<typeof jobs>]
    void sendWeekly(a, '2026-W09', () => new Promise(() => {}))
    await clock.settle()
    const next = track(sendWeekly(b, '2026-W09', send))
    await clock.settle()
    await managers[0]?.stop() // and then crashes
    await clock.advance({ minutes: 2 })
    expect([next.value, sent]).to.deep.equal([true, ['2026-W09']])
  })

  it('is sent once for each day that was missed', async () => {
    const [a, b] = managers.map(jobs) as [ReturnType<typeof jobs>, ReturnType<typeof jobs>]
    await sendDaily(a, day(1), send)
    const days = [1, 2, 3].map(day)
    await Promise.all([a, b].map((once) => catchUp(once, days, send)))
    expect(new Set(sent).size).to.equal(sent.length)
    expect([sent[0], sent.at(-1)]).to.deep.equal([day(1).toISOString(), day(3).toISOString()])
  })
})
