/** The process of `npx -y pnpm@10 chaos`: an interrupted run ends in order. */
import { chaos } from './command.ts'

const stopping = new AbortController()
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(name, () => {
    if (!stopping.signal.aborted) console.log('ends in order, and keeps what is recorded')
    stopping.abort(new Error('interrupted'))
  })
}

const exitCode = await chaos(process.argv.slice(2), { out: console.log, err: console.error, signal: stopping.signal })
// Servers and drivers do not keep the command alive.
process.exit(stopping.signal.aborted ? 130 : exitCode)
