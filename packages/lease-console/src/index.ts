/** A page for operators: who holds which lease, and how to take it away. */
export { createConsole } from './console.ts'
export type { LeaseConsole } from './console.ts'
export { toNodeListener } from './node-listener.ts'
export type { NodeListener } from './node-listener.ts'
export type { ConsoleAction, ConsoleManager, ConsoleOptions, OperatorAction, Permission } from './options.ts'
export { serveConsole } from './serve.ts'
export type { ServeConsoleOptions, ServedConsole } from './serve.ts'
