/** A program that leads and stops; nothing but its candidates could keep it alive. Its managers are not stopped. */
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { lead } from '#src/lead.ts'

const store = new MemoryStore()
let begin = (): void => {}
const begun = new Promise<void>((resolve) => (begin = resolve))
const candidates = ['a', 'b'].map((holder) =>
  lead(
    new Manager({ client: memoryClient({ store }) }),
    'l',
    ({ signal }) => {
      begin()
      return new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    },
    { holder, duration: { hours: 1 } },
  ),
)
await begun
await Promise.all(candidates.toReversed().map((candidate) => candidate.stop()))
process.stdout.write('led and stopped\n')
