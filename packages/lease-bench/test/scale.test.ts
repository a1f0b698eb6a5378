import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore, type Hold } from 'lease-core'
import { isMatrix } from 'lease-servers'
import { countingClock } from '#src/counting-clock.ts'

const MANY = isMatrix() ? 100_000 : 1_000
const AT_ONCE = Math.min(MANY, 5_000)

describe('bench: scale', function () {
  it(`${MANY} Holds are alive on one timer, and on none once the manager is stopped`, async () => {
    const clock = countingClock()
    const client = memoryClient({ store: new MemoryStore(), namespace: 'scale', clock })
    const manager = new Manager({ client, clock })
    const holds: Hold[] = []
    for (let from = 0; from < MANY; from += AT_ONCE) {
      const names = Array.from({ length: AT_ONCE }, (_, index) => `lease-${from + index}`)
      holds.push(...(await Promise.all(names.map((name) => manager.hold(name, 'me', { duration: { hours: 2 } })))))
    }
    expect(holds).to.have.length(MANY)
    expect(holds.every(({ held }) => held)).to.equal(true)
    expect(clock.timers()).to.equal(1)
    await manager.stop()
    expect(holds.some(({ held }) => held)).to.equal(false)
    expect(clock.timers()).to.equal(0)
    await client.close()
  })
})
