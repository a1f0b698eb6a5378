/** The command `lease`, for programs: what `main.ts` runs. */
export { EXIT } from './exit-codes.ts'
export { processIo, type Io, type Sink } from './io.ts'
export { run } from './run.ts'
