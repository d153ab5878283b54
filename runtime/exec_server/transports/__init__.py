"""Transports: conversion between bytes on a socket or pipes and whole JSON messages."""
