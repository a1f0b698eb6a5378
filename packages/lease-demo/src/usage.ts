/** The command line of the demo. */
import { parseArgs } from 'node:util'
import { isVenueName, type VenueName, venueNames } from './venues.ts'

const usage = `Usage: pnpm demo [--on ${venueNames.join('|')}] [--unguarded]

Four worker processes move money between accounts. Who moves money holds the leases of both
accounts. One worker is frozen in the middle of a write until its leases have lapsed, another is
killed. In the end the books are checked.

  --on NAME    where leases and accounts are (default ${venueNames[0]})
  --unguarded  check the leases as before, but write without the guard, and see the damage
  --help       this text

Environment:
  DATABASE_URL    a PostgreSQL server (15 or later) to play on, in a schema of its own
  REDIS_URL       a Redis server (7 or later) to play on, under keys of its own
  ETCD_ENDPOINTS  members of etcd (3.4 or later) to play on, comma separated, under keys of its own
                  What is its own is removed afterwards. Without the variable a server is started
                  and removed again.
  NO_COLOR        no colours

Exit code:
  0  the books balance (and, with the guard: the stale write was refused, and the leases of the
     frozen and the killed worker were taken over)
  1  the books do not balance, or the story did not show what it should
  2  wrong usage
  3  the story could not be told: no server, a worker failed or hangs, a machine that is too slow
`

/** What to play. */
export interface Wishes {
  readonly on: VenueName
  readonly guarded: boolean
}

/** Why nothing is played. */
export interface Usage {
  readonly exitCode: 0 | 2
  /** For stdout, or for stderr when the exit code is 2. */
  readonly text: string
}

/** Reads the arguments of the command. */
export function parse(args: readonly string[]): Wishes | Usage {
  try {
    const { values } = parseArgs({
      args: args.filter((arg, index) => index > 0 || arg !== '--'), // pnpm demo -- --unguarded
      options: {
        on: { type: 'string', default: venueNames[0] },
        unguarded: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    })
    if (values.help !== true) {
      const { on = '' } = values
      if (!isVenueName(on)) throw new Error(`--on must be one of ${venueNames.join(', ')}, not '${on}'`)
      return { on, guarded: values.unguarded !== true }
    }
    return { exitCode: 0, text: usage }
  } catch (error) {
    return { exitCode: 2, text: `${error instanceof Error ? error.message : String(error)}\n\n${usage}` }
  }
}
