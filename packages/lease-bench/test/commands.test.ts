import { expect } from 'chai'
import type { Ground, Place } from '#src/bench.ts'
import { substrateNamed } from '#src/substrates/index.ts'
import { testServers } from './servers.ts'

// In memory only what the library sends is counted: see what the workloads measure.
for (const [name, url] of [...testServers()].filter(([name]) => name !== 'memory')) {
  describe(`bench: commands counted on ${name}`, () => {
    let place: Place
    let ground: Ground

    before(async () => {
      const substrate = await substrateNamed(name)
      place = await substrate.open(url())
      ground = await substrate.reach(place.url)
    })

    after(async () => {
      await ground.close()
      await place.close()
    })

    it('bytes are counted of each answer', async () => {
      await ground.roundTrip()
      const before = ground.bytes()
      for (let times = 0; times < 10; times++) await ground.roundTrip()
      expect(ground.bytes() - before).to.be.at.least(10 * '+PONG'.length)
    })

    it('are as many as a client has sent, reported at once', async () => {
      await ground.roundTrip() // connections
      const before = await ground.commands()
      for (let times = 0; times < 10; times++) await ground.roundTrip()
      // The server's own count, on etcd, also counts other tests; the others count this process.
      const counted = (await ground.commands()) - before
      if (name === 'etcd') expect(counted).to.be.at.least(10)
      else expect(counted).to.equal(10)
    })
  })
}
