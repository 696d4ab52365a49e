"""The pages of the console, in the order of the navigation. Those without a key stand below another."""

from fareclass.console.frame import Page
from fareclass.console.pages import (
    audit,
    batches,
    costs,
    plan,
    playground,
    pools,
    projects,
    reservations,
    routes,
    tiers,
    workloads,
)

PAGES = (
    Page("/pools", "Pools", "dns", "p", pools.build),
    Page("/tiers", "Tiers", "stacked_bar_chart", "t", tiers.build),
    Page("/reservations", "Reservations", "event_available", "r", reservations.build),
    Page("/projects", "Projects", "groups", "j", projects.build),
    Page("/projects/{ref}", "Project", "groups", "", projects.build_one),
    Page("/workloads", "Workloads", "category", "w", workloads.build),
    Page("/routes", "Routes", "alt_route", "o", routes.build),
    Page("/batches", "Batches", "inventory_2", "b", batches.build),
    Page("/costs", "Costs", "payments", "c", costs.build),
    Page("/plan", "Plan", "insights", "l", plan.build),
    Page("/playground", "Playground", "science", "y", playground.build),
    Page("/audit", "Audit", "history", "a", audit.build),
)
