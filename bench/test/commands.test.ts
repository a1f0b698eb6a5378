import { expect } from 'chai'
import type { Place, Substrate } from '../src/bench.ts'
import { etcd } from '../src/substrates/etcd.ts'
import { memory } from '../src/substrates/memory.ts'
import { postgres } from '../src/substrates/postgres.ts'
import { redis } from '../src/substrates/redis.ts'

const cases: readonly (readonly [Substrate, adapter: string])[] = [
  [memory, 'store'],
  [postgres, 'statement'],
  [redis, 'script'],
  [redis, 'set'],
  [etcd, 'transaction'],
]

for (const [substrate, name] of cases) {
  describe(`bench: commands counted on ${substrate.name}, ${name}`, function () {
    this.timeout(60_000)
    let place: Place

    before(async () => {
      place = await substrate.open()
    })

    after(() => place.close())

    it('are as many as a client has sent, told at once, and none while nothing happens', async () => {
      const adapter = substrate.adapters.find((one) => one.name === name)
      const contestant = await adapter?.open(place)
      try {
        const { one } = contestant ?? {}
        await one?.claim('before') // connections, prepared statements, scripts
        const before = await place.commands()
        for (let times = 0; times < 10; times++) await one?.claim(`lease-${times}`)
        // A vacuum of the server's own may come between.
        expect((await place.commands()) - before).to.be.within(10, 15)
        const after = await place.commands()
        expect((await place.commands()) - after).to.be.within(0, 5)
      } finally {
        await contestant?.close()
      }
    })
  })
}
