/** A larger limit lets those in who wait, though nobody gives anything back. */
import { countedName } from 'lease-core'
import type { Permit } from '#src/semaphore.ts'
import { takeHeld } from './step.ts'
import type { World } from './world.ts'

/** On a sound network each who waits is in the queue after this time. */
const QUEUED_MS = 2_000
/** A hint, a claim and its answer take less, and the first in the queue looks again after `maxSleep`, which is longer. */
const SOON_MS = 2_000

export async function growLimit(world: World): Promise<void> {
  world.note(undefined, 'a limit grows')
  // One that hears nothing is passed over.
  const [life, other = life] = world.lives.filter(({ name }) => name !== 1 || !world.settings.blind)
  if (life === undefined || other === undefined) return
  const post = (holder: string): void => {
    const posted = (): Promise<Permit> => other.semaphores.post('S', holder, 60_000)
    void world.call(other, `grown: post(S, ${holder})`, posted, {
      done: (held) =>
        takeHeld({ world, life: other }, { recipe: 'permit', resource: 'grown', held, isExclusive: false }),
    })
  }
  const run = (what: string, call: () => Promise<void>): Promise<void> => world.call(life, what, call)
  const pass = async (ms: number): Promise<void> => {
    await world.time.advance(ms)
    world.lookAtAll()
  }
  // Permits of the dead, which a store without a clock has not yet seen lapse, are revoked.
  await Promise.all([run('destroy(S)', () => life.semaphores.destroy('S')), pass(QUEUED_MS)])
  await Promise.all([run('create(S, 2)', () => life.semaphores.create('S', 2)), pass(QUEUED_MS)])
  for (let index = 0; index < 4; index++) post(`g-${index}`)
  await pass(QUEUED_MS)
  void run('resize(S, 4)', () => life.semaphores.resize('S', 4))
  for (let passedMs = 0; passedMs < 4 * SOON_MS && world.problems.length === 0; passedMs += 100) {
    await pass(100)
    const waitedMs = world.counted.lookAtFirst(countedName('semaphores/S'))
    if (waitedMs > SOON_MS) world.problem('6 room', `a larger limit has let nobody in for ${Math.round(waitedMs)} ms`)
  }
  for (const { what } of world.pending)
    if (what.startsWith('grown')) world.problem('6 waits', `${what} was not served, though there is room`)
  for (const thing of other.things) if (thing.resource === 'grown') thing.end()
  await pass(QUEUED_MS)
}
