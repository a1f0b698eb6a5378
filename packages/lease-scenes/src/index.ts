export { foundAgain, type SilentWay } from './found-again.ts'
export {
  countRenewals,
  managed,
  outages,
  overAccident,
  type AnsweredRenewals,
  type ManagedOptions,
  type Way,
} from './outages.ts'
export { describeWithout } from './kit-part.ts'
export { failsForSetUp } from './set-ups.ts'
export { sharesLikeMemory, sharesLikeMemoryWithoutClock } from './shares-like-memory.ts'
export { leavesNoTimer } from './short-job.ts'
export { together } from './together.ts'
export { hearUnheard, noneUnheard, unheard } from './unheard.ts'
export {
  briefMs,
  caught,
  claim,
  eventually,
  expire,
  extend,
  grant,
  newCall,
  pin,
  readOne,
  release,
  settle,
  sleep,
  succeeds,
  unique,
  unpin,
} from './words.ts'
export { yearsApart } from './years-apart.ts'
